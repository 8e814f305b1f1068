"""The parity gate: when an engine's scores are good enough, and by how much (pure numpy).

An fp32 engine must agree with the fp32 reference; a 16-bit one must err no more than transformers itself does in that
dtype, must rank as well, and must not flip a pair that transformers' own error could not have flipped.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FP32_TOLERANCE = 1e-4  # relative to max(1, |reference|)
SPEARMAN_FLOOR = 0.999
FP16_LIMIT = 65504.0

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the gate: what was measured, what was asked, whether it held."""

    name: str
    measured: str
    required: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class ErrorRatio:
    """Mean engine error over transformers' own mean error in the same dtype, with its standard error."""

    ratio: float
    standard_error: float


def fp32_check(name: str, engine: Values, reference: Values) -> Check:
    """Rule 1: max |engine - reference| <= 1e-4 * max(1, |reference|)."""
    relative = np.abs(engine - reference) / np.maximum(1.0, np.abs(reference))
    worst = float(relative.max())
    return Check(
        name=f"{name}: error in fp32",
        measured=f"{worst:.2e}",
        required=f"<= {FP32_TOLERANCE:.0e}",
        passed=worst <= FP32_TOLERANCE,
    )


def half_checks(name: str, dtype: str, engine: Values, own: Values, reference: Values) -> list[Check]:
    """Rule 2 for bf16 and fp16; `own` are transformers' scores in that dtype."""
    error, own_error = np.abs(engine - reference), np.abs(own - reference)
    ratio = error_ratio(error, own_error)
    rank, own_rank = spearman(engine, reference), spearman(own, reference)
    flips = flipped_pairs(engine, reference, margin=2 * float(own_error.max()))
    floor = min(SPEARMAN_FLOOR, own_rank)
    return [
        Check(
            name=f"{name}: mean error over transformers' own in {dtype}",
            measured=f"{ratio.ratio:.3f} +- {ratio.standard_error:.3f} ({error.mean():.2e} / {own_error.mean():.2e})",
            required="ratio - 2 s.e. <= 1",
            passed=ratio.ratio - 2 * ratio.standard_error <= 1.0,
        ),
        Check(
            name=f"{name}: Spearman rank correlation", measured=f"{rank:.6f}", required=f">= {floor:.6f}",
            passed=rank >= floor - 1e-12,
        ),
        Check(
            name=f"{name}: pairs flipped beyond twice transformers' largest error",
            measured=str(flips), required="0", passed=flips == 0,
        ),
    ]  # fmt: skip


def error_ratio(error: Values, own: Values) -> ErrorRatio:
    """Ratio of paired means and its standard error by the delta method.

    Where transformers makes no error at all, the engine may make fp32's.
    """
    mean = float(own.mean())
    if mean == 0.0:
        good = float(error.max(initial=0.0)) <= FP32_TOLERANCE
        return ErrorRatio(ratio=0.0 if good else math.inf, standard_error=0.0)
    ratio = float(error.mean()) / mean
    spread = float(np.mean((error - ratio * own) ** 2)) / max(1, len(own) - 1)
    return ErrorRatio(ratio=ratio, standard_error=math.sqrt(spread) / mean)


def spearman(a: Values, b: Values) -> float:
    """Rank correlation, ties given their mean rank; 1 for fewer than two values or where neither varies."""
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    da, db = ranks_a - ranks_a.mean(), ranks_b - ranks_b.mean()
    norm = math.sqrt(float(da @ da) * float(db @ db))
    if norm == 0.0:
        return 1.0 if bool((ranks_a == ranks_b).all()) else 0.0
    return float(da @ db) / norm


def _ranks(values: Values) -> Values:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_rank: Values = last - (counts - 1) / 2.0
    return mean_rank[places]


def flipped_pairs(engine: Values, reference: Values, *, margin: float) -> int:
    """Pairs whose order the engine reverses although the reference separates them by more than `margin`."""
    flips = 0
    for i in range(len(reference) - 1):  # a row at a time: n^2 values for long step lists would be gigabytes
        gap = reference[i + 1 :] - reference[i]
        turned = engine[i + 1 :] - engine[i]
        flips += int(np.sum((np.abs(gap) > margin) & (np.sign(gap) * turned < 0)))
    return flips
