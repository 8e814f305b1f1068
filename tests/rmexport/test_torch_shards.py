"""Torch's .bin files: read without running their code, whatever their strides, and never without torch."""

import json
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from checkpoint_files import with_config
from rmexport.checkpoint import open_checkpoint
from rmexport.errors import CheckpointError


def save(folder: Path, tensors: Any, name: str = "pytorch_model.bin", **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / name, **options)
    return with_config(folder)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def many_kinds() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    return {
        "bf16": torch.randn(5, 7).bfloat16(),
        "fp16": torch.randn(3).half(),
        "fp32": base,
        "tied": base,
        "view": base[2:4],
        "transposed": base.t(),
        "strided": torch.randn(4, 9, 5)[1:, ::3],
        "permuted": torch.randn(3, 4, 5).permute(2, 0, 1).bfloat16(),
        "expanded": torch.randn(3, 1).expand(3, 4),
        "fp64": torch.randn(2).double(),
        "int64": torch.arange(4),
        "bool": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_every_kind_of_tensor(tmp_path: Path, zipped: bool) -> None:
    tensors = many_kinds()
    checkpoint = open_checkpoint(str(save(tmp_path, OrderedDict(tensors), _use_new_zipfile_serialization=zipped)))
    assert set(checkpoint.tensors) == set(tensors)
    for name, tensor in tensors.items():
        info = checkpoint.tensors[name]
        assert (info.shape, info.offset) == (tuple(tensor.shape), None)
        assert checkpoint.read(name).tobytes() == bits(tensor) if tensor.numel() else info.nbytes == 0
        if tensor.dtype is not torch.bool and tensor.numel():
            pieces = b"".join(chunk.tobytes() for chunk in checkpoint.chunks(name, 24))
            assert pieces == bits(tensor), name


def test_shards(tmp_path: Path) -> None:
    names = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    for i, name in enumerate(names):
        save(tmp_path, {f"t{i}": torch.full((2, 2), float(i))}, name)
    index = {"weight_map": {"t0": names[0], "t1": names[1]}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(str(tmp_path))
    np.testing.assert_array_equal(checkpoint.read("t1"), np.ones((2, 2), np.float32))
    assert "pytorch_model.bin.index.json" in {record.name for record in checkpoint.source_files}
    index["weight_map"]["t9"] = names[1]
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="do not hold: t9"):
        open_checkpoint(str(tmp_path))


def test_maps_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on after the maps were dropped to keep resident memory small."""
    from rmexport.checkpoint import torch_shards

    monkeypatch.setattr(torch_shards, "_REMAP_BYTES", 1000)
    tensor = torch.randn(64, 64)
    checkpoint = open_checkpoint(str(save(tmp_path, {"t": tensor})))
    assert b"".join(chunk.tobytes() for chunk in checkpoint.chunks("t", 512)) == bits(tensor)


class Code:
    """Unpickling this would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    trap = tmp_path / "ran"
    folder = save(tmp_path / "c", {"t": torch.ones(2), "x": Code(trap)}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="could run code"):
        open_checkpoint(str(folder))
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        [torch.ones(2)],
        {1: torch.ones(2)},
        {"state_dict": {"t": torch.ones(2)}},
        {"t": torch.ones(2), "epoch": 3},
        {"t": torch.eye(2).to_sparse()},
        {"t": torch.ones(2, dtype=torch.complex128)},
    ],
)
def test_more_than_tensors(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(save(tmp_path, content)))


@pytest.mark.parametrize("cut", [0, 10, 300])
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(tmp_path: Path, cut: int, zipped: bool) -> None:
    path = save(tmp_path, {"t": torch.randn(100)}, _use_new_zipfile_serialization=zipped) / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(tmp_path))
    path.write_bytes(pickle.dumps("not torch's"))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(tmp_path))


def test_without_torch_the_extra_is_named(tmp_path: Path) -> None:
    """In a process of its own, where torch cannot be imported; safetensors need no torch at all."""
    save(tmp_path, {"t": torch.ones(2)})
    code = f"""
import sys
sys.modules["torch"] = None
from rmexport.checkpoint import open_checkpoint
from rmexport.errors import CheckpointError
try:
    open_checkpoint({str(tmp_path)!r})
except CheckpointError as error:
    assert "rmexport[torch]" in str(error), error
else:
    raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_an_old_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, {"t": torch.ones(2)})
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(CheckpointError, match=r"rmexport\[torch\]"):
        open_checkpoint(str(tmp_path))
