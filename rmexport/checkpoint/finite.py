"""Finds NaN, infinities and values beyond a dtype's range, in a fraction of the time that reading them takes."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from rmexport.checkpoint.tensors import DTYPE_NAMES, NUMPY_DTYPES, Array

FLOATS = ("bf16", "fp16", "fp32", "fp64")
_BITS = {2: (np.uint16, np.int16), 4: (np.uint32, np.int32), 8: (np.uint64, np.int64)}


@dataclass
class Unstorable:
    """Counts values of a tensor that cannot be stored; `largest` is the greatest finite magnitude beyond the range."""

    nan: int = 0
    inf: int = 0
    beyond: int = 0
    largest: float = 0.0

    def add(self, values: Array, target: str) -> None:
        """Count the values of a chunk that `target` cannot hold."""
        with np.errstate(invalid="ignore"):  # a signalling NaN is counted, not warned about
            wide = np.abs(values.astype(np.float64))
        beyond = np.isfinite(wide) & (wide > _largest(target))
        self.nan += int(np.isnan(wide).sum())
        self.inf += int(np.isinf(wide).sum())
        self.beyond += int(beyond.sum())
        self.largest = max(self.largest, float(wide[beyond].max(initial=0.0)))


def fits(values: Array, target: str) -> bool:
    """Whether every value of a non-empty chunk of floats is finite and within the range of the dtype `target`.

    Magnitudes of floats compare as their bits do, so two integer maxima decide: that of the signed bits is the largest
    positive value, that of the unsigned bits the largest negative one.

    >>> import numpy as np
    >>> fits(np.array([1.0, -65504.0], np.float32), "fp16"), fits(np.array([1e6], np.float32), "fp16")
    (True, False)
    """
    unsigned, signed = _BITS[values.itemsize]
    limit = _limit_bits(DTYPE_NAMES[values.dtype], target)
    sign = 1 << (8 * values.itemsize - 1)
    return int(values.view(signed).max()) < limit and int(values.view(unsigned).max()) < sign + limit


@cache
def _limit_bits(source: str, target: str) -> int:
    """The bits of the smallest magnitude in `source` that `target` cannot hold."""
    dtype = NUMPY_DTYPES[source]
    largest = min(_largest(source), _largest(target))
    nearest = np.array([largest]).astype(dtype)
    bits = int(nearest.view(_BITS[dtype.itemsize][0])[0])
    return bits + (float(nearest[0]) <= largest)


@cache
def _largest(dtype: str) -> float:
    """The greatest finite value: 65504 for fp16, 3.39e38 for bf16."""
    infinity: Any = np.array([np.inf]).astype(NUMPY_DTYPES[dtype])
    bits = infinity.view(_BITS[infinity.itemsize][0])
    return float((bits - 1).view(infinity.dtype)[0])
