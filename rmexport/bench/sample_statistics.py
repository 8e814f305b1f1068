"""Figures of raw samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}


def statistics_of(samples: Sequence[float]) -> dict[str, Any]:
    """Count, mean, standard deviation, extremes, percentiles (linear interpolation); None where there is no sample."""
    names = ("mean", "std", "min", *PERCENTILES, "max")
    if not samples:
        return {"count": 0, **dict.fromkeys(names)}
    values = np.asarray(samples, dtype=np.float64)
    found = (values.mean(), values.std(), values.min(), *np.percentile(values, [*PERCENTILES.values()]), values.max())
    return {"count": len(values), **{name: float(value) for name, value in zip(names, found, strict=True)}}
