"""Statistics of samples, such as latencies."""

from collections.abc import Sequence
from typing import Any

import numpy as np

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}


def statistics_of(samples: Sequence[float]) -> dict[str, Any]:
    """Count, mean, standard deviation, extremes and percentiles (linear interpolation); None where there is no sample.

    >>> found = statistics_of([1.0, 2.0, 3.0])
    >>> found["count"], found["mean"], found["p50"]
    (3, 2.0, 2.0)
    """
    names = ("mean", "std", "min", *PERCENTILES, "max")
    if not samples:
        return {"count": 0, **dict.fromkeys(names)}
    values = np.asarray(samples, dtype=np.float64)
    found = (values.mean(), values.std(), values.min(), *np.percentile(values, [*PERCENTILES.values()]), values.max())
    return {"count": len(values), **{name: float(value) for name, value in zip(names, found, strict=True)}}
