"""Torch's .bin files: read without running their code, whatever their strides; plain ones without torch."""

import ast
import json
import pickle
import subprocess
import sys
import zipfile
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


def compressed(folder: Path, name: str = "pytorch_model.bin", kinds: tuple[str, ...] = ("/version",)) -> Path:
    """The archive as someone's zip tool packs it again."""
    with zipfile.ZipFile(folder / name) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_STORED) as archive:
        for file, data in content.items():
            archive.writestr(file, data, zipfile.ZIP_DEFLATED if file.endswith(kinds) else zipfile.ZIP_STORED)
    return folder


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


def test_members_that_a_zip_tool_compressed(tmp_path: Path) -> None:
    """What is read whole is inflated; storages, which are read in place, are not, and the error says what to do."""
    tensor = torch.randn(64, 64)
    folder = compressed(save(tmp_path, {"t": tensor}))
    assert open_checkpoint(str(folder)).read("t").tobytes() == bits(tensor)
    folder = compressed(folder, kinds=("/data.pkl", "/byteorder"))
    assert open_checkpoint(str(folder)).read("t").tobytes() == bits(tensor)
    with pytest.raises(CheckpointError, match=r"compressed.*zip -0"):
        open_checkpoint(str(compressed(folder, kinds=("/data/0",))))


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


def without_torch(folder: Path, code: str) -> str:
    """What a process prints in which torch cannot be imported."""
    script = f"""
import sys
sys.modules["torch"] = None
from rmexport.checkpoint import open_checkpoint
from rmexport.errors import CheckpointError
try:
    checkpoint = open_checkpoint({str(folder)!r})
    {code}
except CheckpointError as error:
    print(error)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True, text=True)
    return done.stdout


def test_plain_archives_need_no_torch_and_the_extra_is_named_for_the_others(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in many_kinds().items() if tensor.numel()}
    save(tmp_path, tensors)
    code = "print({name: checkpoint.read(name).tobytes().hex() for name in checkpoint.tensors})"
    assert ast.literal_eval(without_torch(tmp_path, code)) == {n: bits(t).hex() for n, t in tensors.items()}
    save(tmp_path, tensors, _use_new_zipfile_serialization=False)
    assert "rmexport[torch]" in without_torch(tmp_path, code)


def test_an_old_torch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, {"t": torch.ones(2)}, _use_new_zipfile_serialization=False)
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(CheckpointError, match=r"rmexport\[torch\]"):
        open_checkpoint(str(tmp_path))


def test_eight_bit_tensors_have_a_dtype_of_their_own(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(4, 3).to(torch.float8_e4m3fn), "b": torch.randn(5).to(torch.float8_e5m2)}
    checkpoint = open_checkpoint(str(save(tmp_path, tensors)))
    assert {n: i.dtype for n, i in checkpoint.tensors.items()} == {"a": "fp8_e4m3", "b": "fp8_e5m2"}
    assert all(checkpoint.read(name).tobytes() == bits(tensor) for name, tensor in tensors.items())


def tampered(path: Path, old: bytes, new: bytes) -> None:
    """The archive with another pickle."""
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    [name] = [name for name in content if name.endswith("data.pkl")]
    assert old in content[name]
    content[name] = content[name].replace(old, new)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file, data in content.items():
            archive.writestr(file, data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x64\x85", b"K\x7f\x85"),  # 127 elements of a storage of 100
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),  # a storage that is not there
        (b"FloatStorage", b"HalfStorage"),  # of another size
        (b"K\x64t", b"K\x7ft"),  # a storage that states more elements than its file has
    ],
)
def test_a_pickle_that_lies_about_its_storages(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = save(tmp_path, {"t": torch.randn(100)}) / "pytorch_model.bin"
    tampered(path, old, new)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(tmp_path)).read("t")


def test_a_file_that_became_shorter(tmp_path: Path) -> None:
    path = save(tmp_path, {"t": torch.randn(100), "v": torch.randn(100, 9)[:, 3]}) / "pytorch_model.bin"
    checkpoint = open_checkpoint(str(tmp_path))
    checkpoint.read("t")
    with path.open("r+b") as file:
        file.truncate(200)
    for name in ("t", "v"):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
            checkpoint.read(name)
