"""Compares two tensors element by element, a megabyte of each at a time."""

import math
import threading
from dataclasses import dataclass

import numpy as np

from rmexport.checkpoint import TensorInfo
from rmexport.checkpoint.tensors import NUMPY_DTYPES, Array, TensorReader
from rmexport.output.progress import Advance

_CHUNK = 1 << 20  # bytes
_BLOCK = 1 << 16  # elements that are widened at a time


class Stopped(Exception):
    """The user interrupted, or another comparison failed."""


@dataclass(kw_only=True)
class ValueDifference:
    """How the values of two tensors of one shape differ.

    `elements` counts those that differ, `not_finite` those of them that are NaN or infinite in either tensor. `max_abs`
    is the largest |a - b| of finite elements, `relative` is ||a - b|| / ||a|| over these; infinite where a is zero.

    >>> found = ValueDifference()
    >>> found.add(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    >>> found.elements, found.max_abs, found.relative
    (1, 0.5, 0.1)
    """

    elements: int = 0
    not_finite: int = 0
    max_abs: float = 0.0
    _difference: float = 0.0  # sums of squares
    _reference: float = 0.0

    @property
    def relative(self) -> float:
        """||a - b|| / ||a|| over finite elements."""
        if not self._difference:
            return 0.0
        return math.sqrt(self._difference / self._reference) if self._reference else math.inf

    def add(self, a: Array, b: Array) -> None:
        """Add two chunks with the same elements of both tensors."""
        for start in range(0, a.size, _BLOCK):
            self._add(a[start : start + _BLOCK], b[start : start + _BLOCK])

    def add_same(self, a: Array) -> None:
        """Add a chunk that is the same in both tensors."""
        for start in range(0, a.size, _BLOCK):
            x = _wide(a[start : start + _BLOCK])
            self._reference += _square(np.where(np.isfinite(x), x, 0))

    def _add(self, a: Array, b: Array) -> None:
        """Add a block of floats. Nearly always all are finite, which the finite sums of squares show at little cost."""
        x, y = _wide(a), _wide(b)
        with np.errstate(all="ignore"):
            apart = x - y
            squares = _square(apart), _square(x)
        if _is_exact(a, b) or not all(map(math.isfinite, squares)):
            self._add_any(a, b)
            return
        self.elements += int(np.count_nonzero(apart))
        self.max_abs = max(self.max_abs, float(apart.max()), -float(apart.min()))
        self._difference += squares[0]
        self._reference += squares[1]

    def _add_any(self, a: Array, b: Array) -> None:
        """Add a block of any numbers: integers, complex ones, or with values or squares that are not finite."""
        x, y = (values.astype(np.complex128 if values.dtype.kind == "c" else np.float64) for values in (a, b))
        unequal = (a != b) if _is_exact(a, b) else (x != y) & ~(np.isnan(x) & np.isnan(y))
        finite = np.isfinite(x) & np.isfinite(y)
        self.elements += int(np.count_nonzero(unequal))
        self.not_finite += int(np.count_nonzero(unequal & ~finite))
        with np.errstate(invalid="ignore"):
            apart = np.abs(np.where(finite, x - y, 0))
        self.max_abs = max(self.max_abs, float(apart.max(initial=0.0)))
        self._difference += _square(apart)
        self._reference += _square(np.where(np.isfinite(x), x, 0))


def _is_exact(a: Array, b: Array) -> bool:
    """Whether values must be compared as they are, not as floats: integers, of which those of 64 bits do not fit, and
    complex numbers.
    """
    return a.dtype == b.dtype and a.dtype.kind in "iuc"


def compare_values(
    a: tuple[TensorReader, TensorInfo], b: tuple[TensorReader, TensorInfo], stop: threading.Event, advance: Advance
) -> ValueDifference:
    """Read and compare two tensors of the same shape, each given as its reader and its entry.

    `advance` is called with the bytes read; `stop` ends it early. Raises CheckpointError and Stopped.
    """
    dtypes = [NUMPY_DTYPES[info.dtype] for _, info in (a, b)]
    step = max(1, _CHUNK // max(dtype.itemsize for dtype in dtypes))
    buffers = [np.empty(min(step, info.size), dtype) for (_, info), dtype in zip((a, b), dtypes, strict=True)]
    found, same = ValueDifference(), []
    for start in range(0, a[1].size, step):
        if stop.is_set():
            raise Stopped
        x, y = (buffer[: a[1].size - start] for buffer in buffers)
        a[0].read_into(a[1], start, x)
        b[0].read_into(b[1], start, y)
        if x.dtype == y.dtype and np.array_equal(x.view(np.uint8), y.view(np.uint8)):
            same.append(start)
        else:
            found.add(x, y)
        advance(x.nbytes + y.nbytes)
    for start in same if found.elements else ():  # the norm of A includes the chunks that are the same
        x = buffers[0][: a[1].size - start]
        a[0].read_into(a[1], start, x)
        found.add_same(x)
    return found


def _wide(values: Array) -> Array:
    """`values` in fp32 for floats of 16 bits or less, which are exact there; others in fp64 or complex128."""
    if values.dtype == NUMPY_DTYPES["bf16"]:  # three times as fast as the cast
        return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    small = values.itemsize < 4 and values.dtype.kind not in "iu"
    return values.astype(np.float32 if small else np.complex128 if values.dtype.kind == "c" else np.float64)


def _square(values: Array) -> float:
    return float(np.vdot(values, values).real)
