"""Reads and checks the header of a safetensors file; the tensors themselves stay on disk.

The format: 8 bytes (header length, little endian), the header (JSON), then the tensors' bytes without holes.
"""

import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rmruntime.bundle.regular_files import open_regular
from rmruntime.bundle.strict_json import parse_json
from rmruntime.errors import listing

HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library
LENGTH_BYTES = 8
_LISTED = 10  # faults named in one message
_MAX_RANK = 64  # dimensions of one tensor, as in numpy

# safetensors name -> (our name, bytes per element); sub-byte formats are not supported
DTYPES: Mapping[str, tuple[str, int]] = {
    "BF16": ("bf16", 2),
    "F16": ("fp16", 2),
    "F32": ("fp32", 4),
    "F64": ("fp64", 8),
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F8_E4M3": ("fp8_e4m3", 1),
    "F8_E5M2": ("fp8_e5m2", 1),
    "F8_E8M0": ("fp8_e8m0", 1),
    "F8_E4M3FNUZ": ("fp8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("fp8_e5m2fnuz", 1),
    "C64": ("complex64", 8),
}
ITEM_BYTES: Mapping[str, int] = dict(DTYPES.values())


class HeaderError(ValueError):
    """Not a valid safetensors file; the message names the file and every fault found."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's place, bytes [begin, end) of the file, its shape, and its dtype, such as bf16 or int64.

    >>> TensorEntry("bf16", (2, 3), begin=128, end=140).nbytes
    12
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of the safetensors file `path` by name, in the order of their bytes.

    Raises HeaderError when the file is not a complete, valid safetensors file and OSError when it cannot be read.

    >>> header = b'{"bias":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    >>> _ = Path("one.safetensors").write_bytes(len(header).to_bytes(LENGTH_BYTES, "little") + header + bytes(2))
    >>> read_header(Path("one.safetensors"))["bias"].shape
    (2,)
    """
    size = os.stat(path).st_size
    raw = _header_bytes(path, size)
    data = _parse(path, raw)
    start = LENGTH_BYTES + len(raw)
    _check_metadata(path, data.pop("__metadata__", None))
    entries, faults = {}, []
    for name, value in data.items():
        try:
            entries[name] = _entry(value, start)
        except ValueError as error:
            faults.append(f"tensor {name!r}: {error}")
    _refuse(path, faults)
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    _refuse(path, _layout_faults(ordered, start, size))
    return ordered


def _header_bytes(path: Path, size: int) -> bytes:
    with open_regular(path) as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES:
            _fail(path, f"it has {size} bytes, too few for a safetensors file")
        if length > HEADER_LIMIT:
            _fail(path, f"it states a header of {length} bytes, more than the {HEADER_LIMIT} allowed")
        if length > size - LENGTH_BYTES:
            _fail(
                path, f"it states a header of {length} bytes and has {size - LENGTH_BYTES} after the length: truncated"
            )
        return file.read(length)


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        data = parse_json(raw)
    except ValueError as error:
        _fail(path, f"its header is not valid JSON ({error})")
    if not raw.startswith(b"{") or not isinstance(data, dict):
        _fail(path, f"its header is a JSON {type(data).__name__}, expected an object")
    return data


def _check_metadata(path: Path, metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _fail(path, "its __metadata__ is not an object of strings")


def _entry(value: Any, start: int) -> TensorEntry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError("expected an object with exactly dtype, shape and data_offsets")
    if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
        raise ValueError(f"found dtype {reprlib.repr(value['dtype'])}, known are {', '.join(DTYPES)}")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _naturals(shape):
        raise ValueError(f"found shape {reprlib.repr(shape)}, expected at most {_MAX_RANK} whole numbers >= 0")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"found data_offsets {reprlib.repr(offsets)}, expected [begin, end] with 0 <= begin <= end")
    dtype, item_bytes = DTYPES[value["dtype"]]
    begin, end = offsets
    if end - begin != math.prod(shape) * item_bytes:
        raise ValueError(f"{dtype} {shape} takes {math.prod(shape) * item_bytes} bytes, its range has {end - begin}")
    return TensorEntry(dtype, tuple(shape), start + begin, start + end)


def _naturals(value: Any) -> bool:
    # `type(...) is int` keeps out booleans; the bounds keep a hostile shape's product from taking minutes
    if not isinstance(value, list) or len(value) > _MAX_RANK:
        return False
    return all(type(item) is int and 0 <= item < 2**63 for item in value)


def _layout_faults(ordered: Mapping[str, TensorEntry], start: int, size: int) -> list[str]:
    faults, at, before = [], start, "the header"
    for name, entry in ordered.items():
        if entry.begin != at:
            kind = "overlaps" if entry.begin < at else f"begins {entry.begin - at} bytes after the end of"
            faults.append(f"tensor {name!r} {kind} {before!r}")
        at, before = max(at, entry.end), name
    if at > size:
        faults.append(f"its tensors end at byte {at} and it has {size}: truncated")
    elif at < size:
        faults.append(f"{size - at} bytes follow the last tensor")
    return faults


def _refuse(path: Path, faults: list[str]) -> None:
    if faults:
        _fail(path, listing(faults, _LISTED, separator="; "))


def _fail(path: Path, fault: str) -> NoReturn:
    raise HeaderError(f"{path.name}: {fault}")
