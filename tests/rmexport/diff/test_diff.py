"""What differs between two bundles or checkpoints: all of it, by how much, and nothing read that need not be."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_files import as_hub_snapshot
from rmexport import ExportOptions, export
from rmexport.cli import main
from rmexport.diff import Difference, DiffOptions, diff
from rmexport.diff.report import facts, text
from tiny_checkpoints import sequence_classifier

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def revisions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints, `c1` and `c2`, which differ in one tensor by 0.5 in three places, and their bundles."""
    folder = tmp_path_factory.mktemp("revisions")
    for name in ("c1", "c2"):
        sequence_classifier(folder / name, dtype=torch.float32)
    change(folder / "c2", lambda tensors: tensors[UP].view(-1)[:3].add_(0.5))
    for name in ("1", "2"):
        export(str(folder / f"c{name}"), folder / f"b{name}")
    return folder


def change(checkpoint: Path, how: Any) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    how(tensors)
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})


def variant(revisions: Path, folder: Path, how: Any = None, **options: Any) -> Path:
    """Another bundle of c1, from changed tensors or with other options."""
    sequence_classifier(folder / "c", dtype=torch.float32)
    if how is not None:
        change(folder / "c", how)
    export(str(folder / "c"), folder / "b", ExportOptions(**options))
    return folder / "b"


def narrow(tensors: dict[str, torch.Tensor]) -> None:
    for tensor in tensors.values():
        tensor.copy_(tensor.bfloat16())


def compared(a: Path, b: Path, **options: Any) -> Difference:
    return diff(str(a), str(b), DiffOptions(**options))


@pytest.mark.parametrize("kind", ["b", "c"])
def test_one_tensor_differs(revisions: Path, kind: str) -> None:
    """Between two bundles, and between the checkpoints that they were made from."""
    found = compared(revisions / f"{kind}1", revisions / f"{kind}2")
    assert found.differs and not (found.settings or found.files or found.only_a or found.only_b)
    [tensor] = found.tensors
    assert tensor.values is not None
    before = load_file(revisions / "c1" / "model.safetensors")[UP].double()
    after = load_file(revisions / "c2" / "model.safetensors")[UP].double()
    assert (tensor.name, tensor.values.elements, tensor.values.not_finite) == (UP, 3, 0)
    assert tensor.values.max_abs == (after - before).abs().max().item()
    assert tensor.values.relative == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-9)
    assert found.same == len(load_file(revisions / "c1" / "model.safetensors")) - 1
    assert f"{UP}  [96, 64]  fp32   3 of 6,144" in text(found)


def test_the_same_is_known_without_reading(revisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By recorded hashes, by hard links, and by the names of the files in the Hub's cache."""
    export(str(revisions / "c1"), tmp_path / "linked", ExportOptions(weights="link"))
    export(str(revisions / "c1"), tmp_path / "again", ExportOptions(weights="link"))
    sequence_classifier(tmp_path / "plain", dtype=torch.float32)
    snapshot = as_hub_snapshot(tmp_path / "plain", tmp_path / "cache")
    export(str(snapshot), tmp_path / "from-hub", ExportOptions(weights="link"))
    monkeypatch.setattr("rmexport.diff.comparison.compare_values", None)
    pairs = [
        (revisions / "b1", revisions / "b1"),
        (tmp_path / "linked", tmp_path / "again"),
        (tmp_path / "linked", revisions / "c1"),
        (tmp_path / "from-hub", revisions / "b1"),
        (snapshot, revisions / "b1"),
    ]
    for a, b in pairs:
        found = compared(a, b)
        assert not found.differs and found.unread == found.same > 20


def test_the_same_values_in_other_files(revisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards do not matter, nor do the graphs' references into them."""
    monkeypatch.setattr("rmexport.options.SMALLEST_SHARD", 1)
    other = variant(revisions, tmp_path, max_shard_size="100KB")
    found = compared(revisions / "b1", other)
    assert not found.differs and found.unread == 0
    assert "settings and files: the same" in text(found) and facts(found)["same"]


def test_stages_in_other_files(revisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which bytes of which file a stage reads makes no difference, whether there are stages does."""
    monkeypatch.setattr("rmexport.options.SMALLEST_SHARD", 1)
    export(str(revisions / "c1"), tmp_path / "staged", ExportOptions(stages=2))
    other = variant(revisions, tmp_path, max_shard_size="100KB", stages=2)
    assert not compared(tmp_path / "staged", other).differs
    found = compared(revisions / "b1", other)
    assert found.settings and all(setting.name.endswith(".stages") for setting in found.settings)
    assert found.settings[0].a == [] and found.settings[0].b == ["0-0", "1-2"] and not found.files


def test_codes_are_no_values(revisions: Path, tmp_path: Path) -> None:
    other = variant(revisions, tmp_path, quantize="int8")
    found = compared(revisions / "b1", other)
    assert "quantization.scheme" in {setting.name for setting in found.settings}
    assert found.tensors and all(tensor.dtypes == ("fp32", "int8") for tensor in found.tensors)
    assert all(tensor.values is None for tensor in found.tensors)
    assert not compared(other, other).differs


def test_other_dtypes_are_compared_by_value(revisions: Path, tmp_path: Path) -> None:
    other = variant(revisions, tmp_path, dtype="bf16")
    found = compared(revisions / "b1", other)
    assert {setting.name for setting in found.settings} >= {"dtype"}
    assert "openvino.bf16.packed.onnx" in {file.name for file in found.files if file.how == "only in B"}
    [up] = [tensor for tensor in found.tensors if tensor.name == UP]
    assert up.dtypes == ("fp32", "bf16") and up.values is not None
    assert 0 < up.values.relative < 2**-8  # bf16 has 8 bits of mantissa, the first of them implied
    assert "fp32 -> bf16" in text(found)
    narrowed: list[Path] = []
    for name, dtype in (("narrow", "bf16"), ("wide", "fp32")):
        (tmp_path / name).mkdir()
        narrowed.append(variant(revisions, tmp_path / name, narrow, dtype=dtype))
    found = compared(*narrowed)
    assert found.tensors and all(tensor.values and not tensor.values.elements for tensor in found.tensors)


def test_tensors_of_one_side_and_of_other_shapes(revisions: Path, tmp_path: Path) -> None:
    sequence_classifier(tmp_path / "c", dtype=torch.float32)

    def grow(tensors: dict[str, torch.Tensor]) -> None:
        tensors["more.weight"] = torch.ones(2)
        tensors["score.weight"] = torch.ones(2, 64)
        del tensors["model.norm.weight"]

    change(tmp_path / "c", grow)
    found = compared(revisions / "c1", tmp_path / "c")
    assert (found.only_a, found.only_b) == (("model.norm.weight",), ("more.weight",))
    [score] = found.tensors
    assert (score.shapes, score.values) == (((1, 64), (2, 64)), None)
    assert "[1, 64] -> [2, 64]" in text(found) and "model.norm.weight: tensor only in A" in text(found)


def test_values_that_are_no_numbers(tmp_path: Path, revisions: Path) -> None:
    """The same NaN in both is no difference; zeros of both signs are one value."""

    def spoil(tensors: dict[str, torch.Tensor], last: float) -> None:
        flat = tensors[UP].view(-1)
        flat[:4] = torch.tensor([float("nan"), float("inf"), 0.0 * last, last])

    for name, last in (("a", float("nan")), ("b", -1.0)):
        sequence_classifier(tmp_path / name, dtype=torch.float32)
        change(tmp_path / name, lambda tensors, last=last: spoil(tensors, last))
    [tensor] = compared(tmp_path / "a", tmp_path / "b").tensors
    assert tensor.values is not None
    assert (tensor.values.elements, tensor.values.not_finite, tensor.values.max_abs) == (2, 2, 0.0)
    assert "(2 NaN or Inf)" in text(compared(tmp_path / "a", tmp_path / "b"))


def test_settings_and_files(revisions: Path, tmp_path: Path) -> None:
    sequence_classifier(tmp_path / "c", dtype=torch.float32, pad=False)
    template = tmp_path / "c" / "chat_template.jinja"
    template.write_text(template.read_text() + "\n")
    export(str(tmp_path / "c"), tmp_path / "b", ExportOptions(bos="one"))
    found = compared(revisions / "b1", tmp_path / "b")
    settings = {setting.name: (setting.a, setting.b) for setting in found.settings}
    assert settings["positions.score.rule"] == ("last_not_pad", "last")
    assert settings["format.bos"] == ("as-is", "one")
    assert {file.name: file.how for file in found.files} == {"chat_template.jinja": "content"}
    assert "positions.score.rule: 'last_not_pad' -> 'last'" in text(found)
    checkpoints = compared(revisions / "c1", tmp_path / "c")
    assert {setting.name for setting in checkpoints.settings} == {"pad_token_id"}
    assert [file.name for file in checkpoints.files] == ["chat_template.jinja"]
    mixed = compared(revisions / "c1", tmp_path / "b")
    assert not mixed.differs and "not their settings" in text(mixed)


def test_revisions_of_a_cached_repository(tmp_path: Path) -> None:
    sequence_classifier(tmp_path / "c", dtype=torch.float32)
    snapshot = as_hub_snapshot(tmp_path / "c", tmp_path / "cache")
    root = snapshot.parent.parent
    (root / "snapshots" / ("d" * 40)).mkdir()
    for link in snapshot.iterdir():
        (root / "snapshots" / ("d" * 40) / link.name).symlink_to(link.readlink())
    (root / "refs" / "2").write_text("d" * 40)
    found = compared(root, root, revision_a="main", revision_b="2")
    assert (found.a.revision, found.b.revision) == ("c" * 40, "d" * 40)
    assert not found.differs and found.unread == found.same


def test_the_command(revisions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit statuses are those of diff."""
    b1, b2 = str(revisions / "b1"), str(revisions / "b2")
    assert main(["diff", b1, b1]) == 0
    assert "0 differ" in capsys.readouterr().out
    assert main(["diff", b1, b2, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [tensor["name"] for tensor in said["tensors_that_differ"]] == [UP]
    assert said["tensors_that_differ"][0]["values"]["elements"] == 3
    for arguments, word in (([b1, str(tmp_path)], "config.json"), ([b1, b2, "--revision-b", "main"], "is a bundle")):
        assert main(["diff", *arguments]) == 2
        assert word in capsys.readouterr().err


def test_progress_reaches_its_total(revisions: Path) -> None:
    seen: list[tuple[int, int]] = []
    diff(str(revisions / "b1"), str(revisions / "b2"), progress=lambda *at: seen.append(at))
    held = load_file(revisions / "c1" / "model.safetensors").values()
    total = 2 * sum(tensor.numel() * 4 for tensor in held)
    assert seen[-1] == (total, total) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_interrupt_stops_the_workers(revisions: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        diff(str(revisions / "b1"), str(revisions / "b2"), progress=interrupt)
    assert threading.active_count() == threads


def test_memory_stays_small(tmp_path: Path) -> None:
    """Two tensors of 100 MB that differ everywhere."""
    for name, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / name).mkdir()
        save_file({"t": torch.full((100, 500_000), value, dtype=torch.bfloat16)}, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_text("{}")
    code = f"""
from pathlib import Path
from rmexport.diff import diff
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
[tensor] = diff({str(tmp_path / "a")!r}, {str(tmp_path / "b")!r}).tensors
print(peak() - before, tensor.values.elements, tensor.values.relative)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    grown, elements, relative = done.stdout.split()
    assert (int(elements), float(relative)) == (50_000_000, 1.0)
    assert int(grown) < 40 * 1024


def of_dtype(folder: Path, tensor: torch.Tensor) -> Path:
    folder.mkdir()
    save_file({"t": tensor}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("a", "b", "elements", "max_abs", "relative"),
    [
        (torch.tensor([2**62, 5, 7]), torch.tensor([2**62 + 1, 5, 7]), 1, 0.0, 0.0),  # one, lost in fp64
        (torch.tensor([3, 4], dtype=torch.int8), torch.tensor([3, 1], dtype=torch.int8), 1, 3.0, 0.6),
        (torch.tensor([3, 4], dtype=torch.int8), torch.tensor([3.0, 1.0]), 1, 3.0, 0.6),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1, 1.0, 1.0),
        (torch.tensor([3e38, 0.0]), torch.tensor([-3e38, 0.0]), 1, 6e38, 2.0),
        (torch.tensor([3e38, 0.0]).bfloat16(), torch.tensor([-3e38, 0.0]).bfloat16(), 1, 6e38, 2.0),
        (torch.tensor([0.0, -0.0]), torch.tensor([0.0, 1e-45]), 1, 1.4e-45, float("inf")),
        (torch.tensor([3.0, 4.0]).half(), torch.tensor([3.0, 1.0]).bfloat16(), 1, 3.0, 0.6),
        (torch.tensor([3.0, 4.0]).to(torch.float8_e4m3fn), torch.tensor([3.0, 1.0]).double(), 1, 3.0, 0.6),
    ],
)
def test_every_kind_of_number(
    tmp_path: Path, a: torch.Tensor, b: torch.Tensor, elements: int, max_abs: float, relative: float
) -> None:
    [tensor] = compared(of_dtype(tmp_path / "a", a), of_dtype(tmp_path / "b", b)).tensors
    assert tensor.values is not None
    assert tensor.values.elements == elements
    assert tensor.values.max_abs == pytest.approx(max_abs, rel=5e-2)
    assert tensor.values.relative == pytest.approx(relative, rel=1e-6)
