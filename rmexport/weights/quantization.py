"""How a matrix is stored in 8 or 4 bits: codes, and the scales they are multiplied with, from rows of floats.

- int8: codes -127 to 127, a scale a row (output channel).
- fp8: e4m3 numbers, a scale a row.
- int4: codes -8 to 7, stored as code + 8, two per byte, the first in the low bits; a scale per 32 columns of a row.
  This is the layout of ONNX Runtime's MatMulNBits, and of ONNX's UINT4.

A scale has the dtype of the bundle, and codes are made for the scale as it was rounded to that. What errs least was
measured on normal and on heavy-tailed rows of 4096: in int8, clipping gains less than 0.1 % over the row's largest
magnitude; in int4, the relative error of normal rows is 9.7 % where the largest magnitude is code 7, 8.6 % where it is
code -8 whatever its sign, and 8.3 % with the best of three clips of that.
"""

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from rmexport.checkpoint.tensors import NUMPY_DTYPES, Array
from rmruntime.bundle.manifest import Scheme

Part = Literal["codes", "scale"]
Floats = NDArray[np.float32]

BLOCK = 32  # columns with one scale in int4; ONNX Runtime's fused CUDA kernels take this one alone
SCALE_SUFFIX = "_scale"  # after the name of the codes, as in compressed-tensors
_CLIPS = (1.0, 0.95, 0.9)
_CODES: dict[Scheme, str] = {"int8": "int8", "fp8": "fp8_e4m3", "int4": "uint8"}
_LARGEST: dict[Scheme, float] = {"int8": 127.0, "fp8": 448.0, "int4": -8.0}


@dataclass(frozen=True)
class Quantized:
    """One `part` of a matrix of `shape` [out, in] that is stored in `scheme`; scales have `scale_dtype`."""

    scheme: Scheme
    part: Part
    shape: tuple[int, int]
    scale_dtype: str

    @property
    def dtype(self) -> str:
        """Of the part as it is stored."""
        return _CODES[self.scheme] if self.part == "codes" else self.scale_dtype

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of the part as it is stored."""
        rows, columns = self.shape
        if self.scheme == "int4":
            return (rows, columns // (2 if self.part == "codes" else BLOCK))
        return self.shape if self.part == "codes" else (rows,)


def scheme_for(scheme: Scheme, shape: tuple[int, ...]) -> Scheme:
    """The scheme of one matrix: rows that are no whole number of blocks are int8 where others are int4.

    >>> scheme_for("int4", (256, 100))
    'int8'
    """
    return "int8" if scheme == "int4" and shape[-1] % BLOCK else scheme


def choose_scales(rows: Floats, how: Quantized) -> Array:
    """The scales of some finite rows [n, in], [n, blocks] in their dtype; a whole row is a block but in int4.

    >>> rows = np.array([[0, 1, -2, 127]], np.float32)
    >>> choose_scales(rows, Quantized("int8", "scales", rows.shape, "fp32"))
    array([[1.]], dtype=float32)
    """
    dtype = NUMPY_DTYPES[how.scale_dtype]
    blocks = _blocked(rows, how)
    scales = _rounded(_extremes(blocks, how) / np.float32(_LARGEST[how.scheme]), dtype)
    if how.scheme == "int4":
        scales = _best_clip(blocks, scales, dtype)
    return scales


def encode(rows: Floats, scales: Array, how: Quantized) -> Array:
    """The codes of some rows as they are stored, with scales that `choose_scales` returned.

    >>> rows, scales = np.array([[0.5, -1, 2]], np.float32), np.array([[0.5]], np.float32)
    >>> encode(rows, scales, Quantized("int8", "codes", rows.shape, "fp32"))
    array([[ 1, -2,  4]], dtype=int8)
    """
    blocks = _blocked(rows, how)
    scaled = blocks / scales.astype(np.float32)[..., None]
    if how.scheme == "fp8":
        return _flat(np.clip(scaled, -448, 448).astype(NUMPY_DTYPES["fp8_e4m3"]))
    if how.scheme == "int8":
        return _flat(np.clip(np.rint(scaled), -127, 127).astype(np.int8))
    codes = (np.clip(np.rint(scaled), -8, 7) + 8).astype(np.uint8).reshape(len(rows), -1, 2)
    packed: Array = codes[..., 0] | codes[..., 1] << 4
    return packed


def decode(codes: Array, scales: Array, scheme: Scheme) -> Floats:
    """The matrix that codes and scales stand for, in fp32.

    >>> decode(np.array([[1, -2, 4]], np.int8), np.array([0.5], np.float32), "int8")
    array([[ 0.5, -1. ,  2. ]], dtype=float32)
    """
    wide = scales.astype(np.float32).reshape(len(codes), -1, 1)
    values = np.stack([codes & 15, codes >> 4], axis=-1).astype(np.float32) - 8 if scheme == "int4" else codes
    matrix: Floats = (values.astype(np.float32).reshape(*wide.shape[:2], -1) * wide).reshape(len(codes), -1)
    return matrix


def _flat(blocks: Array) -> Array:
    """[rows, in] of [rows, blocks, columns]."""
    return blocks.reshape(len(blocks), -1)


def _blocked(rows: Floats, how: Quantized) -> Floats:
    """[rows, blocks, columns with one scale]."""
    return rows.reshape(len(rows), -1, BLOCK if how.scheme == "int4" else rows.shape[1])


def _extremes(blocks: Floats, how: Quantized) -> Floats:
    """The value of largest magnitude of each block, with its sign in int4, which has one more negative code."""
    if how.scheme != "int4":
        largest: Floats = np.abs(blocks).max(axis=-1)
        return largest
    at = np.abs(blocks).argmax(axis=-1)
    extremes: Floats = np.take_along_axis(blocks, at[..., None], axis=-1)[..., 0]
    return extremes


def _rounded(scales: Floats, dtype: "np.dtype[Any]") -> Array:
    """In the scales' dtype, and never 0: the smallest number there is tells values apart as well as the dtype does."""
    rounded: Array = scales.astype(dtype)
    rounded[rounded.astype(np.float32) == 0] = ml_dtypes.finfo(dtype).smallest_subnormal
    return rounded


def _best_clip(blocks: Floats, scales: Array, dtype: "np.dtype[Any]") -> Array:
    """Of a few smaller scales the one with the least squared error, block by block."""
    best, least = scales, np.full(scales.shape, np.inf, np.float32)
    for clip in _CLIPS:
        tried = _rounded(scales.astype(np.float32) * np.float32(clip), dtype)
        wide = tried.astype(np.float32)[..., None]
        error = np.square(np.clip(np.rint(blocks / wide), -8, 7) * wide - blocks).sum(axis=-1)
        best, least = np.where(error < least, tried, best), np.minimum(error, least)
    return best
