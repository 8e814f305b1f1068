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
JACKKNIFE_GROUPS = 100  # of scores, left out in turn
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
    """Rule 1, for scores [N] of an fp32 bundle: max |engine - reference| <= 1e-4 * max(1, |reference|).

    >>> fp32_check("score", np.array([1.0, 200.0]), np.array([1.0, 200.01])).measured
    '5.00e-05'
    """
    relative = np.abs(engine - reference) / np.maximum(1.0, np.abs(reference))
    worst = float(relative.max())
    return Check(
        name=f"{name}: error in fp32",
        measured=f"{worst:.2e}",
        required=f"<= {FP32_TOLERANCE:.0e}",
        passed=worst <= FP32_TOLERANCE,
    )


def half_checks(name: str, dtype: str, engine: Values, transformers: Values, reference: Values) -> list[Check]:
    """Rule 2, for scores [N] of a bf16 or fp16 bundle: the engine errs, ranks and orders pairs as transformers does.

    `transformers` are its scores in that dtype, `reference` those in fp32.

    >>> reference = np.array([-1.0, 0.0, 2.0])
    >>> [check.passed for check in half_checks("score", "bf16", reference + 0.001, reference - 0.01, reference)]
    [True, True, True]
    """
    engine_error, transformers_error = np.abs(engine - reference), np.abs(transformers - reference)
    ratio = error_ratio(engine_error, transformers_error)
    flips = flipped_pairs(engine, reference, margin=2 * float(transformers_error.max()))
    errors = f"({engine_error.mean():.2e} / {transformers_error.mean():.2e})"
    return [
        Check(
            name=f"{name}: mean error over transformers' own in {dtype}",
            measured=f"{ratio.ratio:.3f} +- {ratio.standard_error:.3f} {errors}",
            required="ratio - 2 s.e. <= 1",
            passed=ratio.ratio - 2 * ratio.standard_error <= 1.0,
        ),
        _rank_check(name, engine, transformers, reference),
        Check(
            name=f"{name}: pairs flipped beyond twice transformers' largest error",
            measured=str(flips), required="0", passed=flips == 0,
        ),
    ]  # fmt: skip


def _rank_check(name: str, engine: Values, transformers: Values, reference: Values) -> Check:
    """That the engine ranks as well as transformers in the same dtype, as far as so many scores can tell, or very well.

    With few scores, or scores close to one another, ranks of equal errors differ by chance: 2 standard errors of the
    difference are allowed, as for the errors themselves.
    """
    rank, own = spearman(engine, reference), spearman(transformers, reference)
    floor = min(SPEARMAN_FLOOR, own)
    measured, required = f"{rank:.6f}", f">= {floor:.6f}"
    allowance = 0.0
    if rank < floor and floor < SPEARMAN_FLOOR:
        allowance = 2 * rank_difference_error(engine, transformers, reference)
        required = f">= {floor:.6f} - 2 s.e. = {floor - allowance:.6f}"
    return Check(
        name=f"{name}: Spearman rank correlation",
        measured=measured,
        required=required,
        passed=rank >= floor - allowance - 1e-12,
    )


def rank_difference_error(engine: Values, transformers: Values, reference: Values) -> float:
    """The standard error of spearman(engine, reference) - spearman(transformers, reference), of scores [N] each.

    By the jackknife: the difference without one of at most JACKKNIFE_GROUPS groups of scores at a time. Infinite for
    fewer than three scores, which say nothing of ranks.

    >>> reference = np.arange(8.0)
    >>> rank_difference_error(reference, reference, reference)
    0.0
    """
    count = len(reference)
    if count < 3:
        return math.inf
    groups = np.array_split(np.arange(count), min(count, JACKKNIFE_GROUPS))
    differences = np.array(
        [
            spearman(*(np.delete(x, group) for x in (engine, reference)))
            - spearman(*(np.delete(x, group) for x in (transformers, reference)))
            for group in groups
        ]
    )
    spread = float(np.sum((differences - differences.mean()) ** 2))
    return math.sqrt(spread * (len(groups) - 1) / len(groups))


def error_ratio(engine_error: Values, transformers_error: Values) -> ErrorRatio:
    """The ratio of the means of paired absolute errors [N], and its standard error by the delta method.

    Where transformers makes no error at all, the engine may make fp32's.

    >>> error_ratio(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    ErrorRatio(ratio=0.5, standard_error=0.0)
    """
    mean = float(transformers_error.mean())
    if mean == 0.0:
        good = float(engine_error.max(initial=0.0)) <= FP32_TOLERANCE
        return ErrorRatio(ratio=0.0 if good else math.inf, standard_error=0.0)
    ratio = float(engine_error.mean()) / mean
    residuals = engine_error - ratio * transformers_error
    spread = float(np.mean(residuals**2)) / max(1, len(transformers_error) - 1)
    return ErrorRatio(ratio=ratio, standard_error=math.sqrt(spread) / mean)


def spearman(a: Values, b: Values) -> float:
    """Rank correlation of two [N], ties with their mean rank; 1 for fewer than two values or where neither varies.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0]))
    0.5
    """
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
    """Pairs of the [N] scores whose order the engine reverses, of those that `reference` separates by over `margin`.

    >>> flipped_pairs(np.array([0.0, 2.0, 1.0]), np.array([0.0, 1.0, 2.0]), margin=0.5)
    1
    """
    flips = 0
    for i in range(len(reference) - 1):  # a row at a time: n^2 values for long step lists would be gigabytes
        gap = reference[i + 1 :] - reference[i]
        turned = engine[i + 1 :] - engine[i]
        flips += int(np.sum((np.abs(gap) > margin) & (np.sign(gap) * turned < 0)))
    return flips
