"""Writes torch's .bin archives of any size, tensor by tensor; bytes that nobody writes are holes and take no room."""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch._utils import _rebuild_tensor_v2

Inventory = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (dtype as safetensors calls it, shape)
STORAGES: dict[str, tuple[Any, int]] = {
    "BF16": (torch.BFloat16Storage, 2),
    "F16": (torch.HalfStorage, 2),
    "F32": (torch.FloatStorage, 4),
}
ALIGNMENT = 64  # bytes, as torch pads


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: Any
    count: int


class _Tensor:
    """Pickled as torch pickles a tensor."""

    def __init__(self, storage: _Storage, shape: tuple[int, ...]) -> None:
        self.storage, self.shape = storage, shape

    def __reduce__(self) -> tuple[Any, ...]:
        strides = tuple(math.prod(self.shape[i + 1 :]) for i in range(len(self.shape)))
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", obj.kind, obj.key, "cpu", obj.count) if isinstance(obj, _Storage) else None


def write_archive(
    path: Path, tensors: Inventory, fill: Callable[[BinaryIO, str], None] = lambda file, name: None
) -> dict[str, int]:
    """Write the tensors, and give where each begins in the file.

    `fill` may write the bytes of a tensor, from where the file stands. Checksums are left out: readers that map or read
    in place do not look at them.
    """
    storages = {n: _Storage(str(i), STORAGES[d][0], math.prod(s)) for i, (n, (d, s)) in enumerate(tensors.items())}
    described = io.BytesIO()
    _Pickler(described, 2).dump(OrderedDict((n, _Tensor(storages[n], s)) for n, (_, s) in tensors.items()))
    offsets = {}
    with path.open("wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", described.getvalue())
        archive.writestr("archive/byteorder", "little")
        for name, (dtype, _) in tensors.items():
            size = storages[name].count * STORAGES[dtype][1]
            offsets[name] = _add(archive, file, f"archive/data/{storages[name].key}", size)
            fill(file, name)
            file.seek(offsets[name] + size)
            archive.start_dir = file.tell()
        archive.writestr("archive/version", "3\n")
    return offsets


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, size: int) -> int:
    """The local header of a stored file, padded so that its bytes are aligned; gives where these begin."""
    info = zipfile.ZipInfo(name)
    info.file_size, info.compress_size, info.CRC = size, size, 0
    info.header_offset = archive.start_dir
    file.seek(info.header_offset)
    length = len(info.FileHeader(zip64=False)) + 4
    padding = -(info.header_offset + length) % ALIGNMENT
    info.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    file.write(info.FileHeader(zip64=False))
    info.extra = b""
    archive.filelist.append(info)
    archive.NameToInfo[name] = info
    return file.tell()
