"""Weights arrive in the bundle exactly, by the cheapest permitted way, and faults are told all at once."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open

from checkpoint_files import as_hub_snapshot, bf16, with_config, write_sharded, write_single
from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.checkpoint.derived_tensors import TensorAlias, TensorRows, TensorStack
from rmexport.errors import CheckpointError, OptionError, WriteError
from rmexport.options import ExportOptions
from rmexport.weights import Reports, StoredWeights, WeightSpec, jobs, shard_plan, store, store_weights
from rmruntime.bundle.safetensors_header import read_header

COPY, LINK = ExportOptions(), ExportOptions(weights="link")
ONE, TWO, THREE = (f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3))
SHARDS = [
    {"a": bf16((64, 32), 1), "norm": bf16((33,), 2)},
    {"b": bf16((40, 16), 3), "head": bf16((200, 16), 4)},
    {"fp32": np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6), "ids": np.arange(5, dtype=np.int64)},
]
TENSORS = {name: array for shard in SHARDS for name, array in shard.items()}
DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "int64": "int64"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(str(write_sharded(tmp_path / "checkpoint", SHARDS)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    return tmp_path / "bundle"


def wanted(names: Sequence[str], dtype: str | None = None) -> list[WeightSpec]:
    arrays = {name: TENSORS[name] for name in names}
    return [WeightSpec(n, dtype or DTYPES[a.dtype.name], a.shape, TensorAlias(source=n)) for n, a in arrays.items()]


def rows_of(source: str, rows: tuple[int, ...], dtype: str = "bf16") -> WeightSpec:
    return WeightSpec(
        f"{source}.rows", dtype, (len(rows), *TENSORS[source].shape[1:]), TensorRows(source=source, rows=rows)
    )


def at_location(folder: Path, stored: StoredWeights, name: str) -> np.ndarray[Any, Any]:
    """The weight's bytes where an engine will look for them."""
    where = stored.locations[name]
    with (folder / where.file).open("rb") as file:
        file.seek(where.offset)
        raw = file.read(where.nbytes)
    kinds: dict[str, Any] = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32, "int64": np.int64}
    return np.frombuffer(raw, kinds[where.dtype]).reshape(where.shape)


def check_files(folder: Path, stored: StoredWeights) -> None:
    """Every file is what its record says, a valid safetensors file, and nothing else is there."""
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        record.name for record in stored.files
    }
    for record in stored.files:
        raw = (folder / record.name).read_bytes()
        assert (record.size, record.role) == (len(raw), "weights")
        assert record.sha256 in (None, hashlib.sha256(raw).hexdigest())
        entries = read_header(folder / record.name)
        with safe_open(folder / record.name, "pt") as file:
            assert set(file.keys()) == set(entries)


def check_stored(folder: Path, stored: StoredWeights, weights: Sequence[WeightSpec]) -> None:
    check_files(folder, stored)
    for w in weights:
        expected = TENSORS[w.sources[0]]
        if isinstance(w.made, TensorRows):
            expected = expected[list(w.made.rows)]
        found = at_location(folder, stored, w.name)
        assert DTYPES[found.dtype.name] == w.dtype
        assert found.tobytes() == expected.astype(found.dtype).tobytes(), w


class TestCopy:
    """--weights copy, the default."""

    def test_unchanged_shards_keep_their_names_and_bytes(self, checkpoint: Checkpoint, folder: Path) -> None:
        weights = wanted(list(TENSORS))
        stored = store_weights(checkpoint, weights, folder, COPY)
        check_stored(folder, stored, weights)
        assert {record.name for record in stored.files} == {ONE, TWO, THREE}
        for record in stored.files:
            assert (folder / record.name).read_bytes() == (checkpoint.folder / record.name).read_bytes()
            assert record.sha256 is not None
            assert record.mtime_ns is None
            assert (folder / record.name).stat().st_ino != (checkpoint.folder / record.name).stat().st_ino
        learned = {r.name: r.sha256 for r in stored.sources}
        assert all(learned[r.name] == r.sha256 for r in stored.files)

    def test_a_shard_with_unwanted_tensors_is_rewritten(self, checkpoint: Checkpoint, folder: Path) -> None:
        """The 128k-row head of a judge becomes two rows; the rest of its shard stays as it is."""
        weights = [*wanted(["a", "norm", "b", "fp32", "ids"]), rows_of("head", (12, 10))]
        stored = store_weights(checkpoint, weights, folder, COPY)
        check_stored(folder, stored, weights)
        assert {record.name for record in stored.files} == {ONE, THREE, "model-extra-00001-of-00001.safetensors"}
        held = read_header(folder / "model-extra-00001-of-00001.safetensors")
        assert set(held) == {"b", "head.rows"}
        assert {r.name: r.sha256 for r in stored.sources}[TWO] is None

    @pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
    def test_conversion(self, checkpoint: Checkpoint, folder: Path, dtype: str) -> None:
        weights = wanted(["a", "norm", "b", "head", "fp32"], dtype)
        stored = store_weights(checkpoint, weights, folder, COPY)
        check_stored(folder, stored, weights)
        if dtype != "bf16":
            assert {record.name for record in stored.files} == {"model-00001-of-00001.safetensors"}

    @pytest.mark.parametrize("chunk", [64, 1000, 1 << 20])
    @pytest.mark.parametrize("dtype", ["bf16", "fp16"])
    def test_stacks(
        self, tmp_path: Path, folder: Path, dtype: str, chunk: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Experts, out of several files; one that is missing or has another shape is named."""
        monkeypatch.setattr("rmexport.weights.stream._CHUNK", chunk)
        experts = [{f"e{i}": bf16((7, 20), i)} for i in range(3)]
        source = open_checkpoint(str(write_sharded(tmp_path / "experts", experts)))
        made = TensorStack(sources=("e2", "e0", "e1"))
        stored = store_weights(source, [WeightSpec("experts", dtype, (3, 7, 20), made)], folder, COPY)
        check_files(folder, stored)
        expected = np.stack([experts[i][f"e{i}"] for i in (2, 0, 1)])
        found = at_location(folder, stored, "experts")
        assert found.tobytes() == expected.astype(found.dtype).tobytes()
        made = TensorStack(sources=("e0", "e3", "e1"))
        with pytest.raises(CheckpointError, match=r"e3 is missing; e1 has shape \[7, 20\], expected \[7, 21\]"):
            store_weights(source, [WeightSpec("e", dtype, (3, 7, 21), made)], folder, COPY)

    def test_mixed_dtypes(self, checkpoint: Checkpoint, folder: Path) -> None:
        """A bf16 trunk in fp16 with heads that stay in fp32, as ArmoRM's do."""
        weights = [*wanted(["a", "norm", "b"], "fp16"), *wanted(["fp32"])]
        check_stored(folder, store_weights(checkpoint, weights, folder, COPY), weights)

    def test_data_is_aligned(self, checkpoint: Checkpoint, folder: Path) -> None:
        stored = store_weights(checkpoint, wanted(["norm", "a", "b", "head"], "fp16"), folder, COPY)
        assert [name for name, where in stored.locations.items() if where.offset % 64] == []

    def test_tied_and_renamed_weights_are_stored_once(self, checkpoint: Checkpoint, folder: Path) -> None:
        shape = TENSORS["head"].shape
        for dtype in ("bf16", "fp16"):
            target = folder / dtype
            target.mkdir()
            names = ("embed", "lm_head")
            weights = [WeightSpec(name, dtype, shape, TensorAlias(source="head")) for name in names]
            stored = store_weights(checkpoint, weights, target, COPY)
            assert stored.locations["embed"] == stored.locations["lm_head"]
            assert sum(record.size for record in stored.files) < TENSORS["head"].nbytes + 1000
            check_stored(target, stored, weights)

    @pytest.mark.parametrize("chunk", [64, 200, 1 << 20])
    def test_rows_across_chunks(
        self, checkpoint: Checkpoint, folder: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Permuted and repeated rows, of matrices and vectors, whatever the chunks."""
        monkeypatch.setattr("rmexport.weights.stream._CHUNK", chunk)
        permutation = tuple(int(i) for i in np.random.default_rng(0).permutation(200))
        weights = [
            rows_of("head", permutation),
            rows_of("a", (5, 5, 0, 63), "fp32"),
            rows_of("norm", (32, 1)),
            rows_of("fp32", (), "fp32"),
        ]
        check_stored(folder, store_weights(checkpoint, weights, folder, COPY), weights)

    def test_large_models_get_several_shards(
        self, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shard_plan, "SHARD_BYTES", 5000)
        weights = wanted(["a", "norm", "b", "head"], "fp16")
        stored = store_weights(checkpoint, weights, folder, COPY)
        check_stored(folder, stored, weights)
        assert {record.name for record in stored.files} == {
            f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)
        }  # 4 KB, 1.3 KB and a head of 6.4 KB that is larger than a shard

    def test_bounded_shards(self, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Shards of the checkpoint are split too, and only a tensor that is larger by itself exceeds the bound."""
        monkeypatch.setattr("rmexport.options.SMALLEST_SHARD", 1)
        weights = wanted(list(TENSORS))
        stored = store_weights(checkpoint, weights, folder, ExportOptions(max_shard_size="5KB"))
        check_stored(folder, stored, weights)
        large = [record for record in stored.files if record.size > 5000]
        assert [list(read_header(folder / record.name)) for record in large] == [["head"]]
        assert {ONE, THREE} < {record.name for record in stored.files}  # small enough as they are
        with pytest.raises(OptionError, match=f"{TWO} has .* --max-shard-size 5KB: use --weights copy"):
            store_weights(checkpoint, weights, folder, ExportOptions(weights="link", max_shard_size="5KB"))

    def test_bin_files(self, tmp_path: Path, folder: Path) -> None:
        tensors = {
            "a": torch.from_numpy(TENSORS["a"].astype(np.float32)).bfloat16(),
            "fp32": torch.from_numpy(TENSORS["fp32"]),
        }
        torch.save(
            {**tensors, "b": torch.from_numpy(TENSORS["b"].astype(np.float32)).t()}, tmp_path / "pytorch_model.bin"
        )
        source = open_checkpoint(str(with_config(tmp_path)))
        weights = [*wanted(["a"], "fp16"), *wanted(["fp32"]), rows_of("a", (3, 1))]
        seen: list[tuple[int, int]] = []
        reports = Reports(lambda *at: seen.append(at))
        stored = store_weights(source, weights, folder, ExportOptions(hash=True), reports)
        check_stored(folder, stored, weights)
        raw = (tmp_path / "pytorch_model.bin").read_bytes()
        assert {r.name: r.sha256 for r in stored.sources}["pytorch_model.bin"] == hashlib.sha256(raw).hexdigest()
        assert seen[-1] == (sum(r.size for r in stored.files) + len(raw),) * 2  # hashing is work, and shows as such

    def test_progress_reaches_its_total(self, checkpoint: Checkpoint, folder: Path) -> None:
        seen: list[tuple[int, int]] = []
        stored = store_weights(checkpoint, wanted(list(TENSORS)), folder, COPY, Reports(lambda *at: seen.append(at)))
        total = sum(record.size for record in stored.files)
        assert seen[-1] == (total, total)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    def test_reflinks_where_the_file_system_has_them(
        self, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A shard that shares its blocks is not read, so its hash is open unless asked for."""

        def reflink(source: Path, target: Path) -> bool:
            shutil.copy(source, target)
            return source.name == ONE or target.unlink() is not None

        monkeypatch.setattr(store, "reflink", reflink)
        stored = store_weights(checkpoint, wanted(list(TENSORS)), folder, COPY)
        assert {record.name: record.sha256 is None for record in stored.files} == {ONE: True, TWO: False, THREE: False}
        check_files(folder, stored)
        other = folder.parent / "hashed"
        other.mkdir()
        stored = store_weights(checkpoint, wanted(list(TENSORS)), other, ExportOptions(hash=True))
        assert all(record.sha256 for record in (*stored.files, *stored.sources))
        check_files(other, stored)


class TestLink:
    """--weights link."""

    def test_shards_are_hard_links(self, checkpoint: Checkpoint, folder: Path) -> None:
        weights = [*wanted(["a", "b", "fp32"]), rows_of("head", (1, 0), "fp32")]
        stored = store_weights(checkpoint, weights, folder, LINK)
        check_stored(folder, stored, weights)
        records = {record.name: record for record in stored.files}
        extra = records.pop("model-extra-00001-of-00001.safetensors")
        assert (extra.mtime_ns, extra.sha256 is None) == (None, False)
        assert extra.size < 1000
        for name, record in records.items():
            source = checkpoint.folder / name
            assert (folder / name).samefile(source)
            assert (record.mtime_ns, record.sha256) == (source.stat().st_mtime_ns, None)

    def test_shards_without_wanted_weights_stay_out(self, checkpoint: Checkpoint, folder: Path) -> None:
        stored = store_weights(checkpoint, wanted(["a"]), folder, LINK)
        assert [record.name for record in stored.files] == [ONE]

    def test_a_snapshot_of_links(self, tmp_path: Path, folder: Path) -> None:
        """Links are resolved first, so the bundle holds files; their names in the Hub's cache are their hashes."""
        plain = write_sharded(tmp_path / "plain", SHARDS)
        source = open_checkpoint(str(as_hub_snapshot(plain, tmp_path / "cache")))
        weights = wanted(list(TENSORS))
        stored = store_weights(source, weights, folder, LINK)
        assert all(record.sha256 for record in stored.files)
        assert not any((folder / record.name).is_symlink() for record in stored.files)
        check_stored(folder, stored, weights)

    def test_hashes_on_request(self, checkpoint: Checkpoint, folder: Path) -> None:
        stored = store_weights(checkpoint, wanted(["a", "b"]), folder, ExportOptions(weights="link", hash=True))
        assert all(record.sha256 for record in (*stored.files, *stored.sources))
        check_files(folder, stored)

    def test_conversion_is_an_error(self, checkpoint: Checkpoint, folder: Path) -> None:
        with pytest.raises(OptionError, match="--weights copy") as caught:
            store_weights(checkpoint, wanted(["a", "b", "fp32"], "fp16"), folder, LINK)
        assert all(f"{name} (" in str(caught.value) for name in ("a", "b", "fp32"))
        assert not any(folder.iterdir())

    def test_bin_files_are_an_error(self, tmp_path: Path, folder: Path) -> None:
        torch.save({"a": torch.ones(64, 32)}, tmp_path / "pytorch_model.bin")
        with pytest.raises(OptionError, match="needs safetensors"):
            store_weights(open_checkpoint(str(with_config(tmp_path))), wanted(["a"]), folder, LINK)

    def test_another_file_system(self, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(source: object, target: object) -> None:
            raise OSError(errno.EXDEV, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
        with pytest.raises(WriteError, match=r"another file system. Use --weights copy"):
            store_weights(checkpoint, wanted(["a"]), folder, LINK)


class TestFaults:
    """What cannot be stored."""

    def test_missing_and_misshapen_weights(self, checkpoint: Checkpoint, folder: Path) -> None:
        weights = [
            WeightSpec("x", "bf16", (1,), TensorAlias(source="nowhere")),
            WeightSpec("y", "bf16", (32, 64), TensorAlias(source="a")),
            WeightSpec("z", "bf16", (1, 32), TensorRows(source="a", rows=(64,))),
            WeightSpec("i", "bf16", (5,), TensorAlias(source="ids")),
        ]
        with pytest.raises(CheckpointError) as caught:
            store_weights(checkpoint, weights, folder, COPY)
        for part in ("nowhere is missing", "y has shape [64, 32], expected [32, 64]", "rows 64 to 64", "ids is int64"):
            assert part in str(caught.value)

    @pytest.mark.parametrize("dtype", ["bf16", "fp16"])
    def test_all_unstorable_values_at_once(self, tmp_path: Path, folder: Path, dtype: str) -> None:
        """Also of bytes that are only copied; beyond the range only where it shrinks; never of unwanted tensors."""
        tensors = {"a": bf16((300, 300)), "b": bf16((9,)), "c": bf16((9,)), "unwanted": bf16((4,))}
        tensors["a"][0, 0], tensors["a"][-1, -1] = np.nan, np.inf
        tensors["b"][3:5] = (1e5, -7e4)
        tensors["unwanted"][:] = np.nan
        source = open_checkpoint(str(write_single(tmp_path, tensors)))
        weights = [WeightSpec(n, dtype, a.shape, TensorAlias(source=n)) for n, a in tensors.items() if n != "unwanted"]
        with pytest.raises(CheckpointError) as caught:
            store_weights(source, weights, folder, COPY)
        message = str(caught.value)
        assert "a: 1 NaN, 1 Inf" in message
        assert "c:" not in message
        assert "unwanted" not in message
        assert ("b: 2 beyond the range of fp16, the largest 99840" in message) == (dtype == "fp16")
        assert ("--dtype bf16 or --dtype fp32" in message) == (dtype == "fp16")

    def test_a_damaged_download(self, tmp_path: Path, folder: Path) -> None:
        """The Hub's cache names files by their hash; a copy that has another one is refused."""
        snapshot = as_hub_snapshot(write_sharded(tmp_path / "plain", SHARDS), tmp_path / "cache")
        blob = (snapshot / ONE).resolve()
        raw = bytearray(blob.read_bytes())
        raw[-1] ^= 1
        blob.write_bytes(bytes(raw))
        with pytest.raises(CheckpointError, match=f"{ONE} differ from what the Hub states"):
            store_weights(open_checkpoint(str(snapshot)), wanted(list(TENSORS)), folder, COPY)

    def test_too_little_space(self, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = type("Usage", (), {"free": 1000})
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        with pytest.raises(WriteError, match=r"need [\d,]+ bytes .* has 1,000 free"):
            store_weights(checkpoint, wanted(list(TENSORS)), folder, COPY)
        assert not any(folder.iterdir())
        store_weights(checkpoint, wanted(["a"]), folder, LINK)  # links need none

    @pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
    def test_writing_fails_half_way(
        self, checkpoint: Checkpoint, folder: Path, failure: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The workers all stop, no thread stays behind, and the error says what to do."""
        written, real_write = 0, os.write

        def write(descriptor: int, data: bytes) -> int:
            nonlocal written
            written += len(data)
            if written > 8000:
                raise OSError(failure, os.strerror(failure))
            return real_write(descriptor, data)

        threads = threading.active_count()
        monkeypatch.setattr("rmexport.weights.hashed_file.os.write", write)
        monkeypatch.setattr("rmexport.weights.stream._CHUNK", 512)
        with pytest.raises(WriteError, match="cannot be written" if failure == errno.EIO else "became full"):
            store_weights(checkpoint, wanted(list(TENSORS), None), folder, COPY)
        assert threading.active_count() == threads

    def test_an_interrupt_stops_the_workers(
        self, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(futures: object, return_when: str) -> None:
            raise KeyboardInterrupt

        threads = threading.active_count()
        monkeypatch.setattr(jobs, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store_weights(checkpoint, wanted(list(TENSORS)), folder, COPY)
        assert threading.active_count() == threads


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_memory_stays_small(tmp_path: Path, kind: str) -> None:
    """Converting one tensor of 300 MB raises the process's peak by a few dozen MB, not by its size."""
    shape = (150, 1_000_000)
    if kind == "bin":
        torch.save({"t": torch.zeros(shape, dtype=torch.bfloat16)}, tmp_path / "pytorch_model.bin")
        with_config(tmp_path)
    else:
        write_single(tmp_path, {"t": np.zeros(shape, ml_dtypes.bfloat16)})
    code = f"""
from pathlib import Path
from rmexport.checkpoint import open_checkpoint
from rmexport.options import ExportOptions
from rmexport.checkpoint.derived_tensors import TensorAlias
from rmexport.weights import WeightSpec, store_weights
checkpoint = open_checkpoint({str(tmp_path)!r})
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
before = peak()
folder = Path({str(tmp_path)!r}) / "bundle"
folder.mkdir()
store_weights(checkpoint, [WeightSpec("t", "fp16", {shape}, TensorAlias(source="t"))], folder, ExportOptions())
print(peak() - before)
"""
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]}
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert int(result.stdout) < 60 * 1024
