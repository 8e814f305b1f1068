"""Reads weights with their low-rank updates added, a few rows at a time, so that no merged weight is kept anywhere.

Formulas as in peft, tuners/lora/layer.py (get_delta_weight) and tuners/lora/dora.py:
W + scale * B A; for embeddings and Conv1D, whose weights are stored transposed, W + scale * (B A)^T;
with DoRA m * (W + scale * B A) / ||W + scale * B A||, the norms of rows.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexport.checkpoint.tensors import NUMPY_DTYPES, Array, Route, TensorInfo

_BLOCK = 16  # rows multiplied at once; few, because rows beyond the requested range are computed too


@dataclass(frozen=True, kw_only=True)
class LowRankUpdate:
    """The update of one weight. `a` is [r, in], `b` [out, r], `magnitude` (DoRA) has `out` elements in any shape.

    `weight` is the route to the weight itself: [out, in], or [in, out] where `transposed`.
    """

    weight: Route
    a: Route
    b: Route
    scale: float
    transposed: bool = False
    magnitude: Route | None = None


@dataclass(frozen=True)
class _Factors:
    """An update in memory: `left` [rows, r] times `right` [r, columns], `magnitude` [rows]."""

    left: Array
    right: Array
    magnitude: Array | None


class LoraReader:
    """Reads merged weights; each thread keeps the factors of the weight that it read last."""

    def __init__(self, updates: Mapping[str, LowRankUpdate]) -> None:
        self._updates = updates
        self._held = threading.local()

    def route(self, name: str) -> Route:
        """The route to the merged weight `name`, which this reader reads."""
        return Route(self, replace(self._updates[name].weight.info, name=name))

    def read_into(self, info: TensorInfo, start: int, out: Array) -> None:
        """See TensorReader. Computes in fp32 (fp64 for weights in fp64) and rounds once, to the weight's dtype."""
        update, width = self._updates[info.name], info.shape[1]
        first, last = start // width, -(-(start + out.size) // width)
        rows = np.empty((last - first) * width, out.dtype)
        update.weight.reader.read_into(update.weight.info, first * width, rows)
        with np.errstate(all="ignore"):  # NaN and infinities are found where the values are used
            merged = _merge(rows.reshape(-1, width), self._factors(info.name), first, update.scale)
            flat = merged.reshape(-1)[start - first * width :]
            np.copyto(out, flat[: out.size], casting="unsafe")

    def _factors(self, name: str) -> _Factors:
        if getattr(self._held, "name", None) != name:
            self._held.factors = _read_factors(self._updates[name])
            self._held.name = name
        factors: _Factors = self._held.factors
        return factors


def _merge(rows: Array, factors: _Factors, first: int, scale: float) -> Array:
    """`rows` of the weight, from the row `first` on, with the update added."""
    merged: NDArray[np.floating[Any]] = rows.astype(np.float64 if rows.dtype == np.float64 else np.float32)
    last = first + len(rows)
    merged += scale * _product_rows(factors, first, last)
    if factors.magnitude is not None:
        merged *= (factors.magnitude[first:last] / np.linalg.norm(merged, axis=1))[:, None]
    return merged


def _product_rows(factors: _Factors, first: int, last: int) -> Array:
    """Rows [first, last) of the product of the factors.

    The rounding of a matrix product depends on its shape, so it is computed in blocks that always begin at the same
    rows: a weight then has the same bits in whatever pieces it is read.
    """
    begin = first - first % _BLOCK
    blocks = [factors.left[row : row + _BLOCK] @ factors.right for row in range(begin, last, _BLOCK)]
    return np.concatenate(blocks)[first - begin : last - begin]


def _read_factors(update: LowRankUpdate) -> _Factors:
    a, b = _read(update.a), _read(update.b)
    left, right = (np.ascontiguousarray(a.T), b.T) if update.transposed else (b, a)
    return _Factors(left, right, None if update.magnitude is None else _read(update.magnitude).reshape(-1))


def _read(route: Route) -> Array:
    out = np.empty(route.info.size, NUMPY_DTYPES[route.info.dtype])
    route.reader.read_into(route.info, 0, out)
    return out.reshape(route.info.shape).astype(np.float32)
