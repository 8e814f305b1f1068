"""Dtype changes are bit for bit those of ml_dtypes, numpy and torch; the range test knows what will not fit."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexport.checkpoint.finite import Unstorable, fits
from rmexport.checkpoint.tensors import NUMPY_DTYPES
from rmexport.weights.stream import convert

FLOATS = ("bf16", "fp16", "fp32", "fp64")
EVERY_16_BITS = np.arange(1 << 16, dtype=np.uint16)
BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def same_bits(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    """Equal bit patterns, except that any NaN is as good as another."""
    with np.errstate(invalid="ignore"):  # signalling NaNs are among the patterns
        numbers = ~np.isnan(expected)
        np.testing.assert_array_equal(~np.isnan(found), numbers)
    kind = BITS[found.itemsize]
    np.testing.assert_array_equal(found.view(kind)[numbers], expected.view(kind)[numbers])


TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}


def by_torch(source: np.ndarray[Any, Any], target: str) -> np.ndarray[Any, Any]:
    """What torch makes of it, through its own code; it takes and gives 16-bit numbers as bits."""
    is_bf16 = source.dtype == ml_dtypes.bfloat16
    tensor = torch.from_numpy(source.view(np.int16)).view(torch.bfloat16) if is_bf16 else torch.from_numpy(source)
    converted = tensor.to(TORCH[target])
    raw = converted.view(torch.int16) if target == "bf16" else converted
    return raw.numpy().view(NUMPY_DTYPES[target])


def check(source: np.ndarray[Any, Any], target: str) -> None:
    """Bit for bit as ml_dtypes and numpy do it, and as torch does."""
    with np.errstate(all="ignore"):
        expected = source.astype(NUMPY_DTYPES[target])
    out = np.empty(source.size, NUMPY_DTYPES[target])
    convert(source, out)
    same_bits(out, expected)
    same_bits(out, by_torch(source, target))


@pytest.mark.parametrize("target", FLOATS)
@pytest.mark.parametrize("source", ["bf16", "fp16"])
def test_all_65536_patterns(source: str, target: str) -> None:
    check(EVERY_16_BITS.view(NUMPY_DTYPES[source]), target)


@pytest.mark.parametrize("target", ["bf16", "fp16"])
def test_fp32_rounds_to_nearest_even(target: str) -> None:
    """A million random patterns, and every 16-bit value with its halfway points and their neighbours."""
    random = np.random.default_rng(1).integers(0, 2**32, 1_000_000, dtype=np.uint32)
    check(random.view(np.float32), target)
    values = EVERY_16_BITS.view(NUMPY_DTYPES[target]).astype(np.float32)
    values = np.sort(values[np.isfinite(values)])
    halfway = ((values[1:].astype(np.float64) + values[:-1]) / 2).astype(np.float32)
    near = [halfway, np.nextafter(halfway, np.float32(-np.inf)), np.nextafter(halfway, np.float32(np.inf))]
    check(np.concatenate([values, *near]), target)


@settings(max_examples=200)
@given(st.lists(st.floats(width=32), min_size=1, max_size=50), st.sampled_from(FLOATS), st.sampled_from(FLOATS))
def test_any_numbers(numbers: list[float], source: str, target: str) -> None:
    with np.errstate(all="ignore"):
        values = np.array(numbers, np.float32).astype(NUMPY_DTYPES[source])
    check(values, target)


@pytest.mark.parametrize("target", FLOATS)
@pytest.mark.parametrize("source", FLOATS)
def test_fits_exactly_what_the_target_holds(source: str, target: str) -> None:
    """One value at a time, the quick test agrees with its meaning: finite, and no larger than the target's largest."""
    dtype, limit = NUMPY_DTYPES[source], float(ml_dtypes.finfo(NUMPY_DTYPES[target]).max)
    if source in ("bf16", "fp16"):
        values = EVERY_16_BITS[::7].view(dtype)
    else:
        edges = [
            limit,
            float(ml_dtypes.finfo(NUMPY_DTYPES[source]).max),
            65504.0,
            65520.0,
            65536.0,
            3.4e38,
            0.0,
            1e-300,
        ]
        with np.errstate(all="ignore"):
            exact = np.array(edges).astype(dtype)
            near = [np.nextafter(exact, dtype.type(np.inf)), np.nextafter(exact, dtype.type(0)), -exact]
            values = np.concatenate([exact, *near, np.array([np.nan, np.inf, -np.inf], dtype)])
    with np.errstate(invalid="ignore"):
        wide = values.astype(np.float64)
    expected = np.isfinite(wide) & (np.abs(wide) <= limit)
    padding = np.array([0.5], dtype)
    for value, good in zip(values, expected, strict=True):
        chunk = np.array([padding[0], value, -padding[0]], dtype)
        assert fits(chunk, target) == good, value
        assert convert(chunk, np.empty(chunk.size, NUMPY_DTYPES[target])) == good, value
        found = Unstorable()
        found.add(chunk, target)
        assert (found.nan + found.inf + found.beyond == 0) == good


def test_unstorable_counts() -> None:
    found = Unstorable()
    found.add(np.array([1, 70000, -80000, np.nan, np.inf, -np.inf], np.float32), "fp16")
    found.add(np.array([65504, 90000], np.float32), "fp16")
    assert (found.nan, found.inf, found.beyond, found.largest) == (1, 2, 3, 90000.0)


@pytest.mark.parametrize(
    ("value", "good"),
    [(65280, True), (-65280, True), (1e-7, True), (65536, False), (-65536, False), (np.inf, False), (np.nan, False)],
)
def test_one_value_among_many_decides(value: float, good: bool) -> None:
    weights = (np.random.default_rng(0).standard_normal(300_000) * 0.02).astype(ml_dtypes.bfloat16)
    weights[200_000] = value
    assert convert(weights, np.empty(weights.size, np.float16)) == good
