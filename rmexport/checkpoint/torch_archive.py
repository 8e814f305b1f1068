"""Finds the places of the tensors in torch's zip archives, which are not compressed and can be read in place.

An archive has a pickle (data.pkl), which names storages, and a file for each storage (data/KEY), as torch's
serialization.py writes them since 1.6. The pickle is read by PickleMachine, which accepts only what plain tensors need:
no code runs, and torch is not needed. Everything in an archive is checked, and parts that are read whole are limited in
size, so that a hostile file takes little memory and time.

The format before 1.6 is a series of pickles and then the storages. It is checked in the same way, and read by torch.
"""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rmexport.checkpoint.pickle_machine import BrokenPickle, ForeignPickle, PickleMachine
from rmexport.checkpoint.tensors import NUMPY_DTYPES
from rmexport.checkpoint.zip_members import BrokenZip, ZipMembers

# Limits of a pickle: a fixed number of bytes, and some per storage, for which torch writes about 200; opcodes likewise,
# of which torch writes about 40 per tensor.
_PICKLE_BYTES, _STORAGE_BYTES = 4 << 20, 2048
_OPCODES, _STORAGE_OPCODES = 1_000_000, 200
_MAX_RANK = 64  # dimensions of one tensor, as in numpy
_REPEATED = 1 << 26  # most elements of a tensor that has more elements than its storage, as expanded tensors do
_SIGNATURE = b"PK\3\4"
_OLD_MAGIC, _OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
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
    """A tensor whose first element is at the byte `offset` of its file; `strides` are in elements."""

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
        """The number of elements of the storage between the tensor's first and last, both included."""
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)) if self.size else 0

    @property
    def is_contiguous(self) -> bool:
        """Whether its elements are in row-major order without gaps."""
        expected = 1
        for n, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if n != 1 and stride != expected:
                return not self.size
            expected *= n
        return True


class OldFormat(Exception):
    """The file is in the format before torch 1.6, and has plain tensors only, so that torch may read it."""


class BrokenArchive(Exception):
    """The file is damaged or contradicts itself."""


class MoreThanTensors(Exception):
    """The file has something other than plain tensors by name."""


def read_archive(path: Path) -> dict[str, PlacedTensor]:
    """The tensors of an archive by name.

    Raises OldFormat, BrokenArchive, MoreThanTensors, and OSError when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return _read_zip(file)
            file.seek(0)
            _check_old_format(file, path.stat().st_size)
    except (BrokenPickle, BrokenZip) as error:
        raise BrokenArchive(str(error)) from error
    except ForeignPickle as error:
        raise MoreThanTensors(str(error)) from error
    except (zipfile.BadZipFile, zlib.error, struct.error, RuntimeError, EOFError, ValueError) as error:
        raise BrokenArchive(f"{error!r:.200}") from error  # zipfile's words for what it cannot read
    raise OldFormat("it is in the format before torch 1.6")


def _read_zip(file: BinaryIO) -> dict[str, PlacedTensor]:
    members = ZipMembers(file)
    root = _root(members)
    if members.has(name := f"{root}/byteorder") and members.read(name, most=16) != b"little":
        raise MoreThanTensors("it was written on a big-endian machine")
    count = len(members.names)
    pickle = members.read(f"{root}/data.pkl", most=_PICKLE_BYTES + _STORAGE_BYTES * count)
    content = _tensors(_machine(io.BytesIO(pickle), count).load())
    return {name: _place(members, root, tensor) for name, tensor in content.items()}


def _root(members: ZipMembers) -> str:
    roots = [name.removesuffix("/data.pkl") for name in members.names if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise BrokenArchive(f"{len(roots)} files in it are named data.pkl, expected one")
    return roots[0]


def _machine(file: BinaryIO, storages: int) -> PickleMachine:
    """The machine for a pickle in `file` with up to `storages` storages, on which its limits depend."""
    return PickleMachine(file, _KNOWN, _storage, opcodes=_OPCODES + _STORAGE_OPCODES * storages)


def _tensors(content: Any) -> "dict[str, _Tensor]":
    if not isinstance(content, dict):
        raise MoreThanTensors(f"it holds a {type(content).__name__.strip('_')}, not tensors by name")
    for name, value in content.items():
        if not isinstance(name, str):
            raise MoreThanTensors(f"one of its tensors is named by a {type(name).__name__}")
        if not isinstance(value, _Tensor):
            raise MoreThanTensors(f"{name:.200} is a {type(value).__name__.strip('_')}, not a tensor")
        if value.dtype not in NUMPY_DTYPES:
            raise MoreThanTensors(f"{name:.200} is of an unknown dtype")
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
    """A storage class or a dtype of torch, by our name of the dtype."""

    dtype: str | None


def _storage(identifier: Any) -> _Storage:
    """The storage of the identifier ("storage", class, key, device, number of elements), as torch's persistent_id is.

    In the old format a sixth item tells whether it is a view of another storage.
    """
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6) or identifier[0] != "storage":
        raise MoreThanTensors("it refers to what is no storage of a tensor")
    _, kind, key, _, count, *view = identifier
    if view not in ([], [None]):
        raise MoreThanTensors("one of its storages is a view of another")
    if not isinstance(kind, _Named) or not isinstance(key, str) or not _naturals((count,)):
        raise BrokenArchive("its pickle describes a storage without class, key or size")
    return _Storage(key, kind.dtype, count)


def _rebuild_tensor(arguments: tuple[Any, ...]) -> _Tensor:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`; v3 has a dtype after these."""
    if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
        raise BrokenArchive("its pickle makes a tensor of what is no storage")
    storage, start, shape, strides, *rest = arguments
    good = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides) <= _MAX_RANK
    if not good or not _naturals((start, *shape, *strides)):
        raise BrokenArchive("its pickle has a tensor whose shape or strides are no numbers")
    dtype = rest[2].dtype if len(rest) > 2 and isinstance(rest[2], _Named) else storage.dtype
    return _Tensor(storage, dtype, start, shape, strides)


def _naturals(numbers: tuple[Any, ...]) -> bool:
    return all(type(n) is int and 0 <= n < 2**63 for n in numbers)


def _rebuild_parameter(arguments: tuple[Any, ...]) -> _Tensor:
    """`_rebuild_parameter(data, requires_grad, hooks)`, and a state after these in another version."""
    if not arguments or not isinstance(arguments[0], _Tensor):
        raise BrokenArchive("its pickle makes a parameter of what is no tensor")
    return arguments[0]


def _ordered_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:  # a copy of a dictionary: a few bytes of pickle that could take much memory
        raise BrokenArchive("its pickle copies a dictionary")
    return {}


_KNOWN: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch.storage", "UntypedStorage"): _Named(None),
    **{("torch", name): _Named(dtype) for name, dtype in (*_STORAGES.items(), *_DTYPES.items())},
}


def _place(members: ZipMembers, root: str, tensor: _Tensor) -> PlacedTensor:
    key, dtype = tensor.storage.key, tensor.dtype or ""
    if not members.has(name := f"{root}/data/{key}"):
        raise BrokenArchive(f"its storage {key:.100} is missing")
    at, size = members.place(name)
    itemsize = NUMPY_DTYPES[dtype].itemsize
    stated = tensor.storage.count * (itemsize if tensor.storage.dtype else 1)
    placed = PlacedTensor(dtype, tensor.shape, tensor.strides, at + tensor.start * itemsize)
    needed = (tensor.start + placed.extent) * itemsize if placed.size else 0
    if stated != size or needed > stated:
        raise BrokenArchive(f"its storage {key:.100} has {size} bytes, expected {max(stated, needed)}")
    _check_repeated(tensor, placed)
    return placed


def _check_repeated(tensor: _Tensor, placed: PlacedTensor) -> None:
    """Raises BrokenArchive for a large tensor that repeats its storage, as a stride of 0 does at no cost in bytes."""
    if placed.size * NUMPY_DTYPES[placed.dtype].itemsize > tensor.storage.count * 8 and placed.size > _REPEATED:
        raise BrokenArchive(f"its storage {tensor.storage.key:.100} is repeated to {placed.size} elements")


def _check_old_format(file: BinaryIO, size: int) -> None:
    """Check that torch may read the file: magic number, protocol, machine, tensors, keys of storages, storages.

    Raises as `read_archive`.
    """
    storages: dict[str, _Storage] = {}

    def remember(identifier: Any) -> _Storage:
        found = _storage(identifier)
        return storages.setdefault(found.key, found)

    load = _old_pickles(file, size, remember)
    if load() != _OLD_MAGIC or load() != _OLD_PROTOCOL:
        raise BrokenArchive("it does not begin like a file of torch.save")
    machine = load()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise MoreThanTensors("it was written on a big-endian machine")
    tensors, keys = _tensors(load()), load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != storages.keys():
        raise BrokenArchive("its storages are not those that its tensors name")
    left = size - file.tell()
    if sum(8 + _bytes_of(storage) for storage in storages.values()) > left:
        raise BrokenArchive(f"its storages are larger than the {left} bytes that are left of it")
    for tensor in tensors.values():
        placed = PlacedTensor(tensor.dtype or "", tensor.shape, tensor.strides, 0)
        if placed.size and tensor.start + placed.extent > tensor.storage.count:
            raise BrokenArchive(f"its storage {tensor.storage.key:.100} is smaller than a tensor in it")
        _check_repeated(tensor, placed)


def _bytes_of(storage: _Storage) -> int:
    return storage.count * (NUMPY_DTYPES[storage.dtype].itemsize if storage.dtype else 1)


def _old_pickles(file: BinaryIO, size: int, persistent: Callable[[Any], Any]) -> Callable[[], Any]:
    """A function that loads the next pickle of the file."""

    def load() -> Any:
        at, most = file.tell(), _PICKLE_BYTES + size // 16  # a storage of less than 16 bytes is rare
        opcodes = _OPCODES + _STORAGE_OPCODES * min(size // 4096, 100_000)
        value = PickleMachine(file, _KNOWN, persistent, opcodes=opcodes).load()
        if file.tell() - at > most:
            raise BrokenArchive(f"its pickle has {file.tell() - at} bytes")
        return value

    return load
