"""An interrupted export continues where complete shards end, and never mixes what does not belong together."""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_files import bf16, write_sharded
from rmexport import CheckpointError, ExportOptions, TargetExists, WriteError, export
from rmexport.checkpoint import open_checkpoint
from rmexport.checkpoint.derived_tensors import TensorStack
from rmexport.cli import main
from rmexport.output import atomic_folder
from rmexport.weights import WeightSpec
from rmexport.weights.shard_journal import made_from
from rmexport.weights.shard_plan import plan_weights
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import MANIFEST_NAME, Manifest
from rmruntime.errors import BundleError
from tiny_checkpoints import TinyCheckpoint, sequence_classifier

FILES = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shard after the other, about ten of them, and no file system that copies without reading."""
    monkeypatch.setattr("rmexport.weights.shard_plan.SHARD_BYTES", 25_000)
    monkeypatch.setattr("rmexport.weights.jobs._WORKERS", 1)
    monkeypatch.setattr("rmexport.weights.store.reflink", lambda source, target: False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoint:
    return sequence_classifier(tmp_path_factory.mktemp("model"), dtype=torch.bfloat16)


@pytest.fixture
def checkpoint(tmp_path: Path, model: TinyCheckpoint) -> Path:
    """Two .bin shards."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(model.folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    state = model.model.state_dict()
    names = sorted(state)
    parts = dict(zip(FILES, (names[:9], names[9:]), strict=True))
    for file, part in parts.items():
        torch.save({name: state[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


class Stop:
    """A progress that interrupts when `share` of the bytes are done."""

    def __init__(self, share: float = 0.5, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.share, self.error = share, error

    def __call__(self, done: int, total: int) -> None:
        if done > total * self.share:
            raise self.error


def interrupted(checkpoint: Path, target: Path, options: ExportOptions | None = None, share: float = 0.5) -> Path:
    """The folder that an interrupted export keeps."""
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        export(str(checkpoint), target, options, Stop(share), said.append)
    assert "shards are kept in" in said[-1] and "run the same command again" in said[-1]
    return leftover(target)


def leftover(target: Path) -> Path:
    [folder] = target.parent.glob(f".{target.name}.partial-*")
    return folder


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Complete shards by name, with what changes when one is written again."""
    return {f.name: (f.stat().st_ino, f.stat().st_mtime_ns) for f in folder.glob("*.safetensors")}


def content(bundle: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in bundle.iterdir()}


def resumed(checkpoint: Path, target: Path, options: ExportOptions | None = None) -> tuple[Manifest, str, list[Any]]:
    """The manifest, what was said, and the progress of an export that ends; the bundle is as one made in one go."""
    said: list[str] = []
    steps: list[tuple[int, int]] = []
    manifest = export(str(checkpoint), target, options, lambda *at: steps.append(at), said.append)
    export(str(checkpoint), target.parent / "fresh", options)
    assert content(target) == content(target.parent / "fresh")
    shutil.rmtree(target.parent / "fresh")
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    Bundle.open(target, check="full")
    return manifest, "\n".join(said), steps


def test_complete_shards_are_taken_over(checkpoint: Path, out: Path) -> None:
    folder = interrupted(checkpoint, out / "b")
    kept = shards(folder)
    assert len(kept) > 2
    assert {path.name for path in folder.iterdir()} == {*kept, ".writing"}  # nothing half-written
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open(folder)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    manifest, said, steps = resumed(checkpoint, out / "b")
    assert kept.items() <= shards(out / "b").items()
    assert f"continuing an interrupted export: {len(kept)} of {len(shards(out / 'b'))} shards" in said
    total = sum(record.size for record in manifest.files if record.role == "weights")
    assert (steps[0], steps[-1]) == ((size, total), (total, total))


def test_several_interrupts(checkpoint: Path, out: Path) -> None:
    first = shards(interrupted(checkpoint, out / "b", share=0.3))
    second = shards(interrupted(checkpoint, out / "b", share=0.7))
    assert 0 < len(first) < len(second) and first.items() <= second.items()
    resumed(checkpoint, out / "b")


def test_an_interrupt_before_the_first_shard_is_complete_leaves_nothing(checkpoint: Path, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        export(str(checkpoint), out / "b", progress=Stop(0.0))
    assert not any(out.iterdir())


def test_a_killed_export(checkpoint: Path, out: Path) -> None:
    code = f"""
import time
from rmexport import export
from rmexport.weights import jobs, shard_plan as plan
plan.SHARD_BYTES, jobs._WORKERS = 25_000, 1
export({str(checkpoint)!r}, {str(out / "b")!r}, progress=lambda done, total: time.sleep(3600 * (done > total / 2)))
"""
    process = subprocess.Popen([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)})
    deadline = time.monotonic() + 600  # for a machine with much else to do
    while not any(len(shards(folder)) > 4 for folder in out.iterdir()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (leftover(out / "b") / "half").write_bytes(b"x")
    _, said, _ = resumed(checkpoint, out / "b")
    assert "continuing an interrupted export" in said


def test_other_options_start_over_and_say_so(checkpoint: Path, out: Path) -> None:
    interrupted(checkpoint, out / "b")
    _, said, steps = resumed(checkpoint, out / "b", ExportOptions(dtype="fp16"))
    assert "came from other files or options" in said and "continuing" not in said
    assert steps[0][0] == 0


def test_a_journal_of_another_form_starts_over(checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of what is digested, in the same version: shards of before are never taken for those of now."""
    with monkeypatch.context() as patch:
        patch.setattr("rmexport.weights.shard_journal._FACTS", 1)
        interrupted(checkpoint, out / "b")
    _, said, _ = resumed(checkpoint, out / "b")
    assert "came from other files or options" in said and "continuing" not in said


def test_a_shard_is_made_from_all_files_of_a_stack(tmp_path: Path) -> None:
    """Experts of one weight may lie in several files."""
    folder = write_sharded(tmp_path / "experts", [{f"e{i}": bf16((4, 8), i)} for i in range(3)])
    made = TensorStack(sources=("e0", "e1", "e2"))
    source = open_checkpoint(str(folder))
    plan = plan_weights(source, [WeightSpec("experts", "bf16", (3, 4, 8), made)], ExportOptions())
    [before] = [made_from(source, shard, ExportOptions()) for shard in plan.shards]
    for file in sorted(folder.glob("*.safetensors")):
        os.utime(file, ns=(1, 1))
        [after] = [made_from(source, shard, ExportOptions()) for shard in plan.shards]
        assert after != before, file.name
        before = after


def test_a_source_that_was_downloaded_again(checkpoint: Path, out: Path) -> None:
    """Only what was made from it is made again, whether or not its content is the same."""
    kept = shards(interrupted(checkpoint, out / "b", share=0.8))
    raw = (checkpoint / FILES[1]).read_bytes()
    (checkpoint / FILES[1]).unlink()
    (checkpoint / FILES[1]).write_bytes(raw)
    _, said, _ = resumed(checkpoint, out / "b")
    assert "came from other files" in said and "continuing" in said
    same = kept.items() & shards(out / "b").items()
    assert 0 < len(same) < len(kept)


def test_a_source_that_changes_while_it_is_read(checkpoint: Path, out: Path) -> None:
    """What was complete before stays; what may be half of each is never called complete."""

    def touch(done: int, total: int) -> None:
        if done > total * 0.8:
            os.utime(checkpoint / FILES[1], ns=(done, done))

    with pytest.raises(CheckpointError, match="changed while they were read"):
        export(str(checkpoint), out / "b", progress=touch)
    assert shards(leftover(out / "b"))
    resumed(checkpoint, out / "b")


def damage(shard: Path) -> None:
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(bytes(raw))


@pytest.mark.parametrize("change", [damage, Path.unlink, lambda shard: os.truncate(shard, 100)])
def test_a_shard_that_changed_meanwhile_is_written_again(
    checkpoint: Path, out: Path, change: Callable[[Path], object]
) -> None:
    folder = interrupted(checkpoint, out / "b")
    name = min(shards(folder))
    change(folder / name)
    _, said, _ = resumed(checkpoint, out / "b")
    assert name in said and "written again" in said and "continuing" in said


def test_a_journal_that_was_cut_off(checkpoint: Path, out: Path) -> None:
    journal = interrupted(checkpoint, out / "b") / ".writing"
    journal.write_bytes(journal.read_bytes()[:-30] + b"\xff")
    assert len(shards(interrupted(checkpoint, out / "b"))) > 2  # appended to behind the cut
    _, said, _ = resumed(checkpoint, out / "b")
    assert "continuing" in said


def test_restart(checkpoint: Path, out: Path) -> None:
    kept = shards(interrupted(checkpoint, out / "b"))
    _, said, _ = resumed(checkpoint, out / "b", ExportOptions(restart=True))
    assert said == "" and not kept.items() & shards(out / "b").items()


def test_an_overwritten_bundle_stays_until_the_end(checkpoint: Path, out: Path) -> None:
    export(str(checkpoint), out / "b", ExportOptions(dtype="fp32"))
    before = content(out / "b")
    options = ExportOptions(overwrite=True)
    interrupted(checkpoint, out / "b", options)
    assert content(out / "b") == before
    with pytest.raises(TargetExists):
        export(str(checkpoint), out / "b")
    _, said, _ = resumed(checkpoint, out / "b", options)
    assert "continuing" in said


def test_a_mistyped_command_loses_nothing(checkpoint: Path, out: Path) -> None:
    kept = shards(interrupted(checkpoint, out / "b"))
    with pytest.raises(CheckpointError):
        export(str(checkpoint / "nowhere"), out / "b")
    assert shards(leftover(out / "b")) == kept


def test_a_full_disk(checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, real_write = 0, os.write

    def write(descriptor: int, data: bytes) -> int:
        nonlocal written
        written += len(data)
        if written > 120_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data)

    said: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("rmexport.weights.hashed_file.os.write", write)
        with pytest.raises(WriteError, match="run the same command again"):
            export(str(checkpoint), out / "b", notify=said.append)
    assert "shards are kept" in said[-1]
    _, said_now, _ = resumed(checkpoint, out / "b")
    assert "continuing" in said_now


def test_only_the_rest_needs_space(checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(str(checkpoint), out / "whole")
    total = sum(f.stat().st_size for f in (out / "whole").glob("*.safetensors"))
    shutil.rmtree(out / "whole")
    interrupted(checkpoint, out / "b", share=0.7)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": total // 2}))
    with pytest.raises(WriteError, match=r"need [\d,]+ bytes more"):
        export(str(checkpoint), out / "c")
    export(str(checkpoint), out / "b")


def test_weights_that_cannot_be_stored_are_found_again(out: Path, tmp_path: Path) -> None:
    """A complete shard with a NaN is not taken over, and an export that fails for one keeps nothing."""
    folder = sequence_classifier(tmp_path / "nan").folder
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    fp16 = ExportOptions(dtype="fp16")
    interrupted(folder, out / "b", fp16, share=0.9)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight: 1 NaN"):
        export(str(folder), out / "b", fp16)
    assert not any(out.iterdir())


def test_hashes_of_linked_shards_are_remembered(
    model: TinyCheckpoint, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--weights link --hash reads everything: what was hashed is not hashed again."""
    options = ExportOptions(weights="link", hash=True)

    def fail(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic_folder, "_sync_tree", fail)
        with pytest.raises(KeyboardInterrupt):
            export(str(model.folder), out / "b", options)
    with monkeypatch.context() as patch:
        patch.setattr("rmexport.weights.store.stream_shard", None)
        manifest = export(str(model.folder), out / "b", options)
    assert all(record.sha256 for record in manifest.files)
    assert (out / "b" / "model.safetensors").samefile(model.folder / "model.safetensors")
    Bundle.open(out / "b", check="full")


def test_an_interrupt_while_the_disk_catches_up(checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is there by then, and must not stay: a bundle has one name."""

    def interrupt(path: Path) -> None:
        assert (path / MANIFEST_NAME).exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic_folder, "_sync_tree", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(str(checkpoint), out / "b")
    assert not (leftover(out / "b") / MANIFEST_NAME).exists()
    manifest, said, steps = resumed(checkpoint, out / "b")
    total = sum(record.size for record in manifest.files if record.role == "weights")
    assert steps == [(total, total)] and "continuing" in said


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_between_two_renames(
    checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch, interruptible: None
) -> None:
    export(str(checkpoint), out / "b")
    real_rename = os.rename

    def rename(source: Path, target: Path) -> None:
        real_rename(source, target)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        export(str(checkpoint), out / "b", ExportOptions(dtype="fp16", overwrite=True))
    assert Bundle.open(out / "b").manifest.dtype == "fp16"
    assert [path.name for path in out.iterdir()] == ["b"]


def test_without_locks_nothing_is_kept(checkpoint: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could know whether the export that left it is still running."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    kept = interrupted(checkpoint, out / "b")
    monkeypatch.setattr(fcntl, "flock", refuse)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        export(str(checkpoint), out / "b", None, Stop(), said.append)
    assert list(out.iterdir()) == [kept]
    assert len(said) == 1 and "no file locks" in said[0] and str(kept) in said[0]


def test_two_exports_at_once(checkpoint: Path, out: Path) -> None:
    """The second is told, writes a folder of its own, and loses to the first."""
    said: list[str] = []
    started: list[bool] = []

    def meanwhile(done: int, total: int) -> None:
        if not started:
            started.append(True)
            export(str(checkpoint), out / "b", notify=said.append)

    with pytest.raises(TargetExists):
        export(str(checkpoint), out / "b", progress=meanwhile)
    assert "another process is writing the same target" in said[0]
    Bundle.open(out / "b", check="full")


def test_a_read_only_source(checkpoint: Path, out: Path) -> None:
    for path in (*checkpoint.iterdir(), checkpoint):
        path.chmod(0o555 if path.is_dir() else 0o444)
    interrupted(checkpoint, out / "b")
    resumed(checkpoint, out / "b")
    checkpoint.chmod(0o755)


def test_an_adapter_depends_on_all_its_files(tmp_path: Path, out: Path, model: TinyCheckpoint) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "task_type": "SEQ_CLS"}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(model.folder)}))
    q = "base_model.model.model.layers.0.self_attn.q_proj"
    low = {f"{q}.lora_A.weight": torch.randn(2, 64), f"{q}.lora_B.weight": torch.randn(64, 2)}
    save_file(low, folder / "adapter_model.safetensors")
    interrupted(folder, out / "b")
    config["lora_alpha"] = 8
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(model.folder)}))
    _, said, _ = resumed(folder, out / "b")
    assert "came from other files" in said and "continuing" not in said


def test_the_command_says_how_to_go_on(
    checkpoint: Path, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("rmexport.output.progress.tqdm.update", lambda bar, n: Stop()(bar.n, bar.total))
        patch.setattr("rmexport.weights.stream.Monitor.advance", _advance)
        assert main(["export", str(checkpoint), str(out / "b")]) == 130
    said = capsys.readouterr().err
    assert "shards are kept in" in said and "interrupted" in said
    assert main(["export", str(checkpoint), str(out / "b")]) == 0
    assert "continuing an interrupted export" in capsys.readouterr().err


def _advance(monitor: Any, count: int) -> None:
    monitor.done += count
    Stop()(monitor.done, monitor.total)
