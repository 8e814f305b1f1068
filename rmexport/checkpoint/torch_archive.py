"""Where the tensors of torch's zip archives lie: these are stored uncompressed, so a file can be read in place.

An archive holds a pickle (data.pkl), which names storages, and a file for each storage (data/KEY), as torch's
serialization.py writes them since 1.6. The pickle is read by an unpickler that knows the few names that plain tensors
need, makes nothing but descriptions of them, and gives up at any other: no code runs, and torch is not needed.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexport.checkpoint.tensors import NUMPY_DTYPES

_PICKLE_LIMIT = 256 << 20  # bytes; that of a model of 1000 tensors has 100 KB
_LOCAL_HEADER = 30  # bytes before the name in a zip file's local header (APPNOTE.TXT 4.3.7)
_STORAGES = {
    "BFloat16Storage": "bf16",
    "HalfStorage": "fp16",
    "FloatStorage": "fp32",
    "DoubleStorage": "fp64",
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
}
_DTYPES = {"float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2"}


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor whose first element lies `offset` bytes from its file's start; `strides` count elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def extent(self) -> int:
        """How many elements of the storage it spans."""
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)) if self.size else 0

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements lie in row-major order without holes."""
        expected = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != expected:
                return not self.size
            expected *= n
        return True


class NotPlain(Exception):
    """The file is no archive of plain tensors: it is older, compressed, damaged, or holds something else as well."""


class BrokenArchive(Exception):
    """The pickle states tensors that the archive does not hold."""


def read_archive(path: Path) -> dict[str, PlacedTensor]:
    """The tensors of an archive by name. Raises NotPlain, BrokenArchive, and OSError when the file cannot be read."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            records = {info.filename: info for info in archive.infolist()}
            root = _root(records)
            _check_byte_order(archive, records, root)
            content = _unpickle(archive, records[f"{root}/data.pkl"])
            return {name: _place(file, records, root, value) for name, value in content.items()}
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:  # zipfile's words for what it cannot read
        raise NotPlain(str(error)) from error


def _root(records: Mapping[str, zipfile.ZipInfo]) -> str:
    roots = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise NotPlain(f"{len(roots)} files are named data.pkl")
    return roots[0]


def _check_byte_order(archive: zipfile.ZipFile, records: Mapping[str, zipfile.ZipInfo], root: str) -> None:
    if f"{root}/byteorder" in records and archive.read(f"{root}/byteorder") != b"little":
        raise NotPlain("it was written on a big-endian machine")


def _unpickle(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> dict[str, "_Tensor"]:
    if record.file_size > _PICKLE_LIMIT:
        raise NotPlain(f"its pickle has {record.file_size} bytes")
    try:
        content = _Unpickler(io.BytesIO(archive.read(record))).load()
    except Exception as error:  # damaged pickles make the unpickler fail in any way there is
        raise NotPlain(f"{error!r:.200}") from error
    if not isinstance(content, dict):
        raise NotPlain(f"it holds a {type(content).__name__}")
    if other := [name for name, value in content.items() if not isinstance(name, str) or not _is_tensor(value)]:
        raise NotPlain(f"{other[0]!r:.200} is no plain tensor")
    return content


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str | None  # None: bytes whose dtype each tensor says
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    dtype: str | None
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Named:
    """A storage class or a dtype of torch, as our name of the dtype."""

    dtype: str | None


def _rebuild_tensor(storage: _Storage, start: int, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`; v3 has a dtype behind these."""
    dtype = rest[2].dtype if len(rest) > 2 and isinstance(rest[2], _Named) else storage.dtype
    return _Tensor(storage, dtype, start, tuple(shape), tuple(strides))


def _rebuild_parameter(data: _Tensor, requires_grad: bool, hooks: Any) -> _Tensor:
    return data


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "UntypedStorage"): _Named(None),
    **{("torch", name): _Named(dtype) for name, dtype in (*_STORAGES.items(), *_DTYPES.items())},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise NotPlain(f"it refers to {module}.{name}")
        return _KNOWN[module, name]

    def persistent_load(self, identifier: Any) -> _Storage:
        """("storage", class, key, device, number of elements), as torch's persistent_id gives it."""
        kind, storage, key, _, count = identifier
        if kind != "storage" or not isinstance(storage, _Named) or not isinstance(key, str):
            raise NotPlain(f"it refers to a {kind!r:.50}")
        return _Storage(key, storage.dtype, count)


def _is_tensor(value: Any) -> bool:
    """Nothing that a pickle says of a tensor is taken on trust: it can also change what was made already."""
    if not isinstance(value, _Tensor) or not isinstance(value.storage, _Storage):
        return False
    if not isinstance(value.dtype, str) or value.dtype not in NUMPY_DTYPES:
        return False
    if not isinstance(value.shape, tuple) or not isinstance(value.strides, tuple):
        return False
    numbers = (value.start, value.storage.count, *value.shape, *value.strides)
    return len(value.shape) == len(value.strides) and all(type(n) is int and n >= 0 for n in numbers)


def _place(file: io.BufferedReader, records: Mapping[str, zipfile.ZipInfo], root: str, tensor: _Tensor) -> PlacedTensor:
    key, dtype = tensor.storage.key, tensor.dtype or ""
    record = records.get(f"{root}/data/{key}")
    if record is None:
        raise BrokenArchive(f"its storage {key} is missing")
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise NotPlain(f"its storage {key} is compressed or encrypted")
    itemsize = NUMPY_DTYPES[dtype].itemsize
    stated = tensor.storage.count * (itemsize if tensor.storage.dtype else 1)
    offset = _data_offset(file, record) + tensor.start * itemsize
    placed = PlacedTensor(dtype, tensor.shape, tensor.strides, offset)
    needed = (tensor.start + placed.extent) * itemsize if placed.size else 0
    if stated != record.file_size or needed > stated:
        raise BrokenArchive(f"its storage {key} has {record.file_size} bytes, expected {max(stated, needed)}")
    return placed


def _data_offset(file: io.BufferedReader, record: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored file begin: behind its local header, whose padding only that header knows."""
    file.seek(record.header_offset)
    header = file.read(_LOCAL_HEADER)
    if len(header) < _LOCAL_HEADER or not header.startswith(b"PK\3\4"):
        raise NotPlain(f"{record.filename} has no local header")
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return record.header_offset + _LOCAL_HEADER + lengths
