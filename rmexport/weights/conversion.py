"""Changes the dtype of weights, rounding to nearest even, bit for bit as ml_dtypes and numpy do, but faster."""

import ml_dtypes
import numpy as np

from rmexport.checkpoint.finite import fits
from rmexport.checkpoint.tensors import DTYPE_NAMES, NUMPY_DTYPES, Array

# Elements converted at a time: input, output and temporaries stay in a core's second-level cache.
_BLOCK = 1 << 17

_BF16, _FP16 = NUMPY_DTYPES["bf16"], NUMPY_DTYPES["fp16"]
_SUBNORMAL = 0x3880  # bf16 bits of 2^-14; smaller magnitudes are subnormal in fp16 and need rounding
_BEYOND = 0x4780  # bf16 bits of 65536, the smallest magnitude beyond fp16's range


def convert(source: Array, out: Array) -> bool:
    """Fill the flat array `out` with the values of `source`: non-empty, of one length, floating-point.

    Gives whether every value is finite and within the range of `out`; those beyond it become infinite.
    """
    if (source.dtype, out.dtype) != (_BF16, _FP16):
        return _convert_plainly(source, out)
    good = True
    for start in range(0, source.size, _BLOCK):
        good &= _fp16_from_bf16(source[start : start + _BLOCK], out[start : start + _BLOCK])
    return good


def _convert_plainly(source: Array, out: Array) -> bool:
    with np.errstate(all="ignore"):
        np.copyto(out, source, casting="unsafe")
    return fits(source, DTYPE_NAMES[out.dtype])


def _fp16_from_bf16(source: Array, out: Array) -> bool:
    """A bf16 has fewer mantissa bits than an fp16, so a normal number is only moved.

    The exponent's bias changes from 127 to 15 and three zero bits follow the mantissa. Numbers that are subnormal in
    fp16 or beyond its range are looked up.
    """
    bits, result = source.view(np.uint16), out.view(np.uint16)
    scratch = np.bitwise_or(bits, 0x7FFF)
    np.subtract(scratch, 0x3FFF, out=scratch)  # 0xC000 for negative numbers, 0x4000 (the bias) for positive ones
    np.left_shift(bits, 3, out=result)
    np.add(result, scratch, out=result)
    np.bitwise_and(bits, 0x7FFF, out=scratch)
    np.subtract(scratch, _SUBNORMAL, out=scratch)  # wraps around below
    rest = np.flatnonzero(scratch >= _BEYOND - _SUBNORMAL)
    if rest.size > source.size // 8:  # looking up many is slower than the plain way
        return _convert_plainly(source, out)
    looked_up = bits[rest]
    result[rest] = _FP16_FROM_BF16[looked_up]
    return int(np.bitwise_and(looked_up, 0x7FFF).max(initial=0)) < _BEYOND


with np.errstate(all="ignore"):
    _EVERY_BF16: Array = np.arange(1 << 16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    _FP16_FROM_BF16: Array = _EVERY_BF16.astype(np.float16).view(np.uint16)
