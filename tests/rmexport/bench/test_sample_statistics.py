"""Percentiles and the rest."""

import numpy as np
import pytest

from rmexport.bench.sample_statistics import statistics_of


def test_figures_of_a_known_sample() -> None:
    found = statistics_of([float(i) for i in range(1001)])
    assert found["count"] == 1001 and (found["min"], found["max"], found["mean"]) == (0.0, 1000.0, 500.0)
    assert [found[name] for name in ("p50", "p90", "p95", "p99", "p99.9")] == pytest.approx([500, 900, 950, 990, 999])
    assert found["std"] == pytest.approx(np.std(np.arange(1001)))


def test_one_sample_is_every_percentile() -> None:
    found = statistics_of([3.5])
    assert {found[name] for name in ("p50", "p99", "p99.9", "min", "max", "mean")} == {3.5} and found["std"] == 0.0


def test_no_sample_has_no_figures() -> None:
    found = statistics_of([])
    assert found["count"] == 0 and found["p50"] is None and set(found) == set(statistics_of([1.0]))
