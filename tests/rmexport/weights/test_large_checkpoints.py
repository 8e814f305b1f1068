"""A 70B reward model, 139 GB, as sparse files: where every tensor goes, and no more memory than for a small one."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch

from rmexport import ExportOptions, WriteError, export
from rmexport.checkpoint import open_checkpoint
from rmexport.checkpoint.derived_tensors import TensorAlias
from rmexport.spec import read_spec
from rmexport.weights import WeightSpec
from rmexport.weights.shard_plan import SHARD_BYTES, plan_weights
from rmexport.weights.stream import Monitor, stream_shard
from rmruntime.bundle.safetensors_header import read_header
from sparse_checkpoints import (
    disk_usage,
    free_of_sparse_files,
    has_marks,
    marks,
    write_seed,
    write_seed_as_bin,
)
from torch_archives import write_archive

RECIPE = ExportOptions(recipe="rewardbench2")
TENSORS = 9 * 80 + 3
TOTAL = 139_006_214_144  # bytes in bf16


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    if free_of_sparse_files(tmp_path):
        pytest.skip("this file system has no sparse files")
    return tmp_path


def test_links_of_safetensors(sparse: Path) -> None:
    """Every weight of the graph lies where the bundle's files have it."""
    folder = write_seed(sparse / "checkpoint", "tulu-70b")
    manifest = export(str(folder), sparse / "bundle", ExportOptions(weights="link", recipe="rewardbench2"))
    assert sum(record.size for record in manifest.files if record.role == "weights") > TOTAL
    assert disk_usage(sparse / "bundle") < 20_000_000
    [graph] = [graph.file for graph in manifest.graphs if graph.dialect == "ort-cpu"]
    model = onnx.load(sparse / "bundle" / graph, load_external_data=False)
    checked = 0
    for initializer in model.graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL:
            at = {entry.key: entry.value for entry in initializer.external_data}
            path, offset, length = sparse / "bundle" / at["location"], int(at["offset"]), int(at["length"])
            assert has_marks(path, initializer.name, offset, length), initializer.name
            checked += 1
    assert checked == TENSORS


def test_bin_shards_are_read_in_place(sparse: Path) -> None:
    """The plan holds every tensor once, in shards of at most 5 GB, and each is found at both of its ends."""
    folder = write_seed_as_bin(sparse / "checkpoint", "tulu-70b")
    assert disk_usage(folder) < 20_000_000
    checkpoint = open_checkpoint(str(folder))
    assert sum(info.nbytes for info in checkpoint.tensors.values()) == TOTAL
    plan = plan_weights(checkpoint, read_spec(checkpoint, RECIPE).weights, RECIPE)
    assert len(plan.shards) == 29 and max(shard.size for shard in plan.shards) <= SHARD_BYTES
    pieces = [piece for shard in plan.shards for piece in shard.pieces]
    assert sorted(piece.weight.name for piece in pieces) == sorted(checkpoint.tensors) and len(pieces) == TENSORS
    for piece in pieces:
        for offset, expected in marks(piece.weight.name, piece.weight.nbytes).items():
            out = np.empty(len(expected) // 2, ml_dtypes.bfloat16)
            checkpoint.read_into(piece.weight.name, offset // 2, out)
            assert out.tobytes() == expected, piece.weight.name
    for shard in plan.shards:
        at = shard.header_bytes
        for piece in shard.pieces:
            assert piece.offset == at == plan.locations[piece.weight.name].offset
            at += piece.weight.nbytes


def test_a_disk_that_is_too_small(sparse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 75 * 10**9}))
    folder = write_seed_as_bin(sparse / "checkpoint", "tulu-70b")
    with pytest.raises(WriteError, match=r"need 139,006,[\d,]+ bytes more .* 75,000,000,000 free"):
        export(str(folder), sparse / "bundle", RECIPE)
    assert {path.name for path in sparse.iterdir()} == {"checkpoint"}


def test_inspecting_takes_little_memory(sparse: Path) -> None:
    """Of 139 GB in .bin shards, in a process of its own that never imports torch."""
    folder = write_seed_as_bin(sparse / "checkpoint", "tulu-70b")
    code = f"""
import sys
from pathlib import Path
from rmexport.cli import main
assert main(["inspect", {str(folder)!r}, "--recipe", "rewardbench2"]) == 0
assert "torch" not in sys.modules
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert f"{TOTAL}" in done.stdout
    assert int(done.stdout.split()[-1]) < 200 * 1024


def test_torch_reads_the_archives_that_these_tests_write(tmp_path: Path) -> None:
    values = {"a": torch.randn(7, 5).bfloat16(), "b": torch.randn(3)}
    raw = {name: tensor.view(torch.uint8).numpy().tobytes() for name, tensor in values.items()}
    kinds = {"a": ("BF16", (7, 5)), "b": ("F32", (3,))}
    offsets = write_archive(tmp_path / "pytorch_model.bin", kinds, lambda file, name: file.write(raw[name]) and None)
    found = torch.load(tmp_path / "pytorch_model.bin", mmap=True, weights_only=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in values.items())
    assert all(offset % 64 == 0 for offset in offsets.values())
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(str(tmp_path))
    assert {name: checkpoint.read(name).tobytes() for name in values} == raw


def test_a_shard_of_many_arrives_whole(tmp_path: Path) -> None:
    """Streaming one shard of a plan gives a file with the plan's offsets, and the hash of what is in it."""
    inventory = {f"t{i}": ("BF16", (100 + i, 64)) for i in range(40)}
    rng = np.random.default_rng(0)
    raw = {n: (rng.integers(0, 0x3FFF, s[0] * 64, np.uint16)).tobytes() for n, (_, s) in inventory.items()}
    write_archive(tmp_path / "pytorch_model.bin", inventory, lambda file, name: file.write(raw[name]) and None)
    (tmp_path / "config.json").write_text("{}")
    checkpoint = open_checkpoint(str(tmp_path))
    wanted = [WeightSpec(name, "bf16", shape, TensorAlias(source=name)) for name, (_, shape) in inventory.items()]
    plan = plan_weights(checkpoint, wanted, ExportOptions(max_shard_size="1MB"))
    [shard] = plan.shards
    sha256 = stream_shard(checkpoint, shard, tmp_path / shard.name, Monitor())
    assert sha256 == hashlib.sha256((tmp_path / shard.name).read_bytes()).hexdigest()
    for name, entry in read_header(tmp_path / shard.name).items():
        assert (tmp_path / shard.name).read_bytes()[entry.begin : entry.end] == raw[name]
        assert entry.begin == plan.locations[name].offset
