"""Files of a stranger in torch's format: an error in little memory and time, whatever they say of themselves (3.3)."""

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from checkpoint_files import with_config
from rmexport.checkpoint import open_checkpoint
from rmexport.errors import CheckpointError

MEMORY = 80 << 20  # bytes; the least of the attacks took 600 MB
TEXT = b"X\x01\x00\x00\x00a"


def archive(path: Path, pickled: bytes, *, byteorder: bytes = b"little", deflated: tuple[str, ...] = ()) -> Path:
    """A .bin file with one storage of four numbers."""
    members = {"archive/data.pkl": pickled, "archive/byteorder": byteorder, "archive/data/0": bytes(16)}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data, zipfile.ZIP_DEFLATED if name.endswith(deflated) else zipfile.ZIP_STORED)
    return path


def refused(folder: Path, *, match: str = r"pytorch_model\.bin") -> str:
    """The error of opening the folder, which takes little memory."""
    with_config(folder)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=match) as caught:
            open_checkpoint(str(folder))
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    return str(caught.value)


def tensor_of(shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85", count: bytes = b"K\x04") -> bytes:
    """The pickle of {"a": a tensor}, but for the shape, the strides and the storage's size."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu" + count + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + strides + b"\x89Ntr"
    return b"\x80\x02}" + TEXT + rebuilt[:-1] + b"Rs."


def test_the_pickle_of_these_tests_is_a_good_one(tmp_path: Path) -> None:
    archive(tmp_path / "pytorch_model.bin", tensor_of())
    assert open_checkpoint(str(with_config(tmp_path))).tensors["a"].shape == (4,)


def nested(count: int) -> bytes:
    """A tuple whose hash, copy or text is made of 2^count parts."""
    return b"(" + b"K\x01\x85" + b"q\x00h\x00\x86" * count


PICKLES = {
    "a memo of 2^27 entries": b"\x80\x02}r\x00\x00\x00\x08.",
    "a memo of 2^31 entries": b"\x80\x02}r\xff\xff\xff\x7f" + tensor_of()[3:],
    "an integer of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7f" + bytes(100) + b".",
    "an integer of 256 bytes": b"\x80\x02}" + TEXT + b"\x8a\xff" + b"\x7f" * 255 + b"s.",
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xff" + bytes(100) + b".",
    "a text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".",
    "bytes of 2^62": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b".",
    "marks in marks": b"\x80\x02" + b"(" * 200_000 + b".",
    "more values than memory": b"\x80\x02" + b"]" * 3_000_000 + b".",
    "lists in lists": b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".",
    "a key that takes forever to hash": b"\x80\x02}" + nested(80) + b"K\x01s.",
    "a key of a persistent id that takes forever to compare": b"\x80\x02" + nested(80) + b"Q.",
    "a dictionary copied": b"\x80\x02ccollections\nOrderedDict\n}\x85R.",
    "endless copies": b"\x80\x02" + b"]q\x00" + b"h\x00" * 50_000 + b".",
    "text as a shape": tensor_of(shape=b"X\x00\x01\x00\x00" + b"a" * 256),
    "65 dimensions": tensor_of(shape=b"(" + b"K\x01" * 65 + b"t", strides=b"(" + b"K\x01" * 65 + b"t"),
    "a negative dimension": tensor_of(shape=b"J\xff\xff\xff\xff\x85"),
    "a dimension of 2^63": tensor_of(shape=b"\x8a\x09" + b"\0" * 7 + b"\x80\0\x85"),
    "a terabyte out of four numbers": tensor_of(shape=b"\x8a\x06" + b"\0" * 5 + b"\x01\x85", strides=b"K\x00\x85"),
    "beyond its storage": tensor_of(shape=b"K\x05\x85"),
    "a storage of 2^40 numbers": tensor_of(count=b"\x8a\x06" + b"\0" * 5 + b"\x01"),
    "a float for a size": tensor_of(count=b"G" + struct.pack(">d", 4.0)),
    "a name that is no UTF-8": tensor_of().replace(TEXT, b"X\x01\x00\x00\x00\xff"),
    "a lone surrogate as a name": tensor_of().replace(TEXT, b"X\x03\x00\x00\x00\xed\xa0\x80"),
    "an extension": b"\x80\x02\x82\x01.",
    "a class": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "nothing": b"",
    "no end": tensor_of()[:-1],
    "nothing on the stack": b"\x80\x02.",
    "a value that is not there": b"\x80\x02h\x05.",
    "a state of a list": b"\x80\x02]}b.",
    "a call of a number": b"\x80\x02K\x01)R.",
    "a list": b"\x80\x02].",
    "numbers by name": b"\x80\x02}" + TEXT + b"K\x01s.",
    "os.system": b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.",
}


@pytest.mark.parametrize("pickled", PICKLES.values(), ids=PICKLES.keys())
def test_hostile_pickles(tmp_path: Path, pickled: bytes) -> None:
    archive(tmp_path / "pytorch_model.bin", pickled)
    refused(tmp_path)


@pytest.mark.parametrize("pickled", [PICKLES["a memo of 2^27 entries"], PICKLES["lists in lists"], tensor_of()])
def test_hostile_pickles_of_the_old_format(tmp_path: Path, pickled: bytes) -> None:
    """The storages behind the pickles are missing at least."""
    start = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    (tmp_path / "pytorch_model.bin").write_bytes(b"".join(start) + pickled + pickle.dumps(["0"], 2))
    refused(tmp_path)


def test_inflating_has_an_end(tmp_path: Path) -> None:
    """A deflated member of 1.4 MB took 669 MB; what a member says of its size is not believed either."""
    archive(tmp_path / "pytorch_model.bin", tensor_of(), byteorder=bytes(100 << 20), deflated=("byteorder",))
    assert "byteorder" in refused(tmp_path)
    archive(tmp_path / "pytorch_model.bin", tensor_of() + bytes(20 << 20), deflated=("data.pkl",))
    assert "data.pkl" in refused(tmp_path)
    path = archive(tmp_path / "pytorch_model.bin", tensor_of() + bytes(20 << 20), deflated=("data.pkl",))
    size = struct.pack("<I", len(tensor_of()) + (20 << 20))
    assert path.read_bytes().count(size) == 2
    path.write_bytes(path.read_bytes().replace(size, struct.pack("<I", 200)))
    refused(tmp_path)


def patched(change: Callable[[bytearray, int], None]) -> Callable[[Path], None]:
    """Changes the directory's entry of the storage."""

    def apply(path: Path) -> None:
        data = bytearray(path.read_bytes())
        change(data, data.rindex(b"archive/data/0") - 46)
        path.write_bytes(data)

    return apply


def _size(data: bytearray, at: int) -> None:
    data[at + 20 : at + 28] = struct.pack("<II", 1 << 30, 1 << 30)


def _zip64(data: bytearray, at: int) -> None:
    data[at + 20 : at + 28] = b"\xff" * 8


def _overlap(data: bytearray, at: int) -> None:
    data[at + 42 : at + 46] = struct.pack("<I", 0)


def _encrypted(data: bytearray, at: int) -> None:
    data[at + 8] |= 1


def _twice(data: bytearray, at: int) -> None:
    other = data.rindex(b"archive/byteorder")
    data[other : other + 17] = b"archive/data.pkl\0"


def _directory(data: bytearray, at: int) -> None:
    end = data.rindex(b"PK\5\6")
    data[end + 12 : end + 16] = struct.pack("<I", 0xFFFFFFF0)


@pytest.mark.parametrize("change", [_size, _zip64, _overlap, _encrypted, _twice, _directory])
def test_a_directory_that_lies(tmp_path: Path, change: Callable[[bytearray, int], None]) -> None:
    path = archive(tmp_path / "pytorch_model.bin", tensor_of())
    patched(change)(path)
    refused(tmp_path)


def test_a_directory_of_any_size_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as file:
        file.comment = b""
        file.writestr("archive/data.pkl", tensor_of())
        for i in range(200):
            info = zipfile.ZipInfo(f"{i}")
            info.extra = b"FB" + struct.pack("<H", 60_000) + bytes(60_000)
            file.writestr(info, b"")
    assert "directory" in refused(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\3\4", b"PK\5\6" + bytes(18), b"version https://git-lfs.github.com/spec/v1\n", b"<html>" * 100],
)
def test_what_is_no_file_of_torch(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    refused(tmp_path)


def test_thousands_of_tensors_are_read(tmp_path: Path) -> None:
    """The bounds grow with the storages that an archive has, so that no good file meets one."""
    shared = torch.zeros(8)
    tensors = OrderedDict((f"model.layers.{i}.self_attn.q_proj.weight", shared[i % 8 :]) for i in range(5000))
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    assert len(open_checkpoint(str(with_config(tmp_path))).tensors) == 5000


def test_pickles_of_other_protocols(tmp_path: Path) -> None:
    for protocol in (2, 3, 4, 5):
        buffer = io.BytesIO()
        torch.save({"t": torch.ones(3)}, buffer, pickle_protocol=protocol)
        (tmp_path / "pytorch_model.bin").write_bytes(buffer.getvalue())
        assert open_checkpoint(str(with_config(tmp_path))).read("t").tolist() == [1, 1, 1]
