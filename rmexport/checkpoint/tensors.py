"""A checkpoint's tensors, in files of any format: their names, dtypes, shapes and places, and how they are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NUMPY_DTYPES: Mapping[str, "np.dtype[Any]"] = {
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp16": np.dtype(np.float16),
    "fp32": np.dtype(np.float32),
    "fp64": np.dtype(np.float64),
    "bool": np.dtype(np.bool_),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "uint16": np.dtype(np.uint16),
    "int16": np.dtype(np.int16),
    "uint32": np.dtype(np.uint32),
    "int32": np.dtype(np.int32),
    "uint64": np.dtype(np.uint64),
    "int64": np.dtype(np.int64),
    "fp8_e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "fp8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "fp8_e8m0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "fp8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "fp8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "complex64": np.dtype(np.complex64),
}
DTYPE_NAMES: Mapping["np.dtype[Any]", str] = {dtype: name for name, dtype in NUMPY_DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the checkpoint. `file` is relative to its folder; `offset` (in bytes) is None in torch files.

    >>> TensorInfo("score.weight", "bf16", (1, 4096), "model.safetensors", 128, nbytes=8192).size
    4096
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int | None
    nbytes: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.nbytes // NUMPY_DTYPES[self.dtype].itemsize


class TensorReader(Protocol):
    """Reads tensors of one file format; several threads may read at once."""

    def read_into(self, info: TensorInfo, start: int, out: Array) -> None:
        """Fill the flat array `out` with the tensor's elements from index `start` on, in row-major order."""
        ...


@dataclass(frozen=True)
class Route:
    """How a tensor is read: its reader, and the tensor's entry in that reader's files."""

    reader: TensorReader
    info: TensorInfo


class RoutedReader:
    """Reads each tensor with its own reader."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self._routes = routes

    def read_into(self, info: TensorInfo, start: int, out: Array) -> None:
        """See TensorReader."""
        route = self._routes[info.name]
        route.reader.read_into(route.info, start, out)
