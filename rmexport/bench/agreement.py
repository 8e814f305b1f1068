"""Compares a contestant's scores with ours: speed counts only where the scores are the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmexport.verify.parity import FP32_TOLERANCE, spearman

HALF_SHARE = 0.05  # two correct 16-bit engines may differ by this share of the scores' standard deviation, or of 1
HALF_STEP = 2.0**-7  # relative step of a bf16 number, to which models that end in bf16 round their scores

Values = Sequence[float | None]


def tolerance(reference: Sequence[float], precisions: Sequence[str]) -> float:
    """The largest difference that passes, in units of the score.

    fp32 against fp32: 1e-4 max(1, |x|), the parity gate's rule. With a 16-bit contestant on either side:
    0.05 max(1, standard deviation) + |x| / 128. |x| is the largest score.

    >>> tolerance([1.0, -2.0], ("fp32", "fp32"))
    0.0002
    """
    values = np.asarray(reference, dtype=np.float64)
    largest = float(np.abs(values).max())
    if all(precision == "fp32" for precision in precisions):
        return FP32_TOLERANCE * max(1.0, largest)
    return HALF_SHARE * max(1.0, float(values.std())) + HALF_STEP * largest


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
    record |= dict.fromkeys(("max_abs", "mean_abs", "spearman", "flipped_pairs", "tolerance"))
    ours = [value for value in reference if value is not None]
    theirs = [value for value in found if value is not None]
    if len(ours) != len(reference) or len(theirs) != len(found) or len(ours) != len(theirs):
        return record
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    error, limit = np.abs(a - b), tolerance(ours, precisions)
    return record | {
        "max_abs": float(error.max()),
        "mean_abs": float(error.mean()),
        "spearman": spearman(b, a) if len(a) > 1 else None,
        "flipped_pairs": sum(bool((a[i] - a[j]) * (b[i] - b[j]) < 0) for i, j in pairs),
        "tolerance": limit,
        "same": bool(error.max() <= limit),
    }


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
