"""Compares a contestant's scores with ours: speed counts only where the scores are the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmexport.verify.parity import FP32_TOLERANCE, spearman

# Of the scores' standard deviation: the root mean square of what two correct 16-bit engines differ by. Measured on
# SmolLM2-135M with a fitted head (docs/real_models.md): one engine's bf16 errs by 0.10, so two differ by 0.14; a first
# token too many makes 0.23, one too few 0.33, a missing system prompt 1.7.
HALF_SHARE = 0.17
HALF_LEAST = 0.05  # in units of the score: scores that are nearly alike have no deviation to compare with
HALF_STEP = 2.0**-8  # of the largest score: models that end in bf16 round their scores
PEAK = 4.0  # of the root mean square: what a single score may differ by

Values = Sequence[float | None]


def half_tolerance(reference: Sequence[float]) -> float:
    """The largest root mean square of differences between 16-bit engines that passes, in units of the score.

    The largest of 0.17 standard deviations, 0.05, and 1/256 of the largest score.

    >>> half_tolerance([1.0, -1.0])
    0.17
    """
    values = np.asarray(reference, dtype=np.float64)
    return max(HALF_SHARE * float(values.std()), HALF_LEAST, HALF_STEP * float(np.abs(values).max()))


def tolerance(reference: Sequence[float], precisions: Sequence[str]) -> float:
    """The largest difference of one score that passes, in units of the score.

    fp32 against fp32: 1e-4 max(1, |x|), the parity gate's rule, |x| the largest score. With a 16-bit contestant on
    either side: 4 times `half_tolerance`, which bounds their root mean square.

    >>> tolerance([1.0, -2.0], ("fp32", "fp32"))
    0.0002
    """
    if _all_fp32(precisions):
        return FP32_TOLERANCE * max(1.0, float(np.abs(np.asarray(reference, dtype=np.float64)).max()))
    return PEAK * half_tolerance(reference)


def agreement(
    reference: Values, found: Values, precisions: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """The report's record of how well the scores `found` agree with ours, `reference`.

    A score that was not finite is None, and differs from every other. `pairs` are the indices of chosen and rejected
    answers, to count pairs whose order is flipped.

    >>> record = agreement([1.0, -2.0], [1.5, -2.0], ("fp32", "fp32"), [(0, 1)])
    >>> record["max_abs"], record["flipped_pairs"], record["same"]
    (0.5, 0, False)
    """
    record: dict[str, Any] = {"reference": "rmexport", "pairs": len(pairs), "same": False}
    record |= dict.fromkeys(("max_abs", "mean_abs", "rms", "spearman", "flipped_pairs"))
    record |= dict.fromkeys(("tolerance", "rms_tolerance"))
    ours = [value for value in reference if value is not None]
    theirs = [value for value in found if value is not None]
    if len(ours) != len(reference) or len(theirs) != len(found) or len(ours) != len(theirs):
        return record
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    error, rms = np.abs(a - b), float(np.sqrt(np.square(a - b).mean()))
    limit, rms_limit = tolerance(ours, precisions), None if _all_fp32(precisions) else half_tolerance(ours)
    return record | {
        "max_abs": float(error.max()),
        "mean_abs": float(error.mean()),
        "rms": rms,
        "spearman": spearman(b, a) if len(a) > 1 else None,
        "flipped_pairs": sum(bool((a[i] - a[j]) * (b[i] - b[j]) < 0) for i, j in pairs),
        "tolerance": limit,
        "rms_tolerance": rms_limit,
        "same": bool(error.max() <= limit) and (rms_limit is None or rms <= rms_limit),
    }


def _all_fp32(precisions: Sequence[str]) -> bool:
    return all(precision == "fp32" for precision in precisions)


def worse(one: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """The worse of two records of `agreement`, which is the one to report.

    >>> worse({"same": True, "max_abs": 0.0}, {"same": False, "max_abs": 0.5})
    {'same': False, 'max_abs': 0.5}
    """
    if one is None or (one["same"] and not other["same"]):
        return other
    if one["same"] != other["same"] or one["max_abs"] is None:
        return one
    return other if other["max_abs"] is None or other["max_abs"] > one["max_abs"] else one
