"""The server scenario's judgement of a run, and how it looks for the knee."""

from typing import Any

import pytest

from rmexport.bench.run import comparisons
from rmexport.bench.scenarios import MOST_POINTS, next_rate, point_record


def run_of(samples: list[tuple[float, float]], **more: Any) -> dict[str, Any]:
    return {"samples": samples, "arrivals": len(samples), "span_s": 10.0, "last_pass_s": 9.0, "unfinished": 0, **more}


def server_of(name: str, *points: tuple[float, bool]) -> dict[str, Any]:
    """A contestant whose points achieved these rates, saturated or not."""
    measured = [{"achieved_rate": rate, "saturated": saturated} for rate, saturated in points]
    knee = max((rate for rate, saturated in points if not saturated), default=None)
    return {"name": name, "scenarios": [{"scenario": "server", "knee_rate": knee, "points": measured}]}


def test_who_kept_up_with_no_rate_is_compared_by_what_was_achieved() -> None:
    """A slow machine does not lose the scenario."""
    slow, fast = server_of("slow", (6.0, True), (8.0, True)), server_of("fast", (10.0, False), (16.0, True))
    both = [("server", "knee_rate", "fast", 2.0), ("server", "achieved_rate", "slow", 2.5)]
    for contestants, expected in (
        ([server_of("rmexport", (20.0, False), (19.0, True)), slow, fast], both),
        ([server_of("rmexport", (4.0, True)), fast], [("server", "achieved_rate", "fast", 0.25)]),
        ([server_of("rmexport", (4.0, True)), server_of("none")], []),
    ):
        found = comparisons(contestants)
        assert [(c["scenario"], c["measure"], c["contestant"], c["ratio"]) for c in found] == expected


def test_a_rate_that_was_borne() -> None:
    point = point_record(10.0, run_of([(i / 10, i / 10 + 0.05) for i in range(100)]), slo_ms=60.0)
    assert not point["saturated"] and point["achieved_rate"] == pytest.approx(10.0)
    assert point["latency_ms"]["p99"] == pytest.approx(50.0) and point["goodput_per_s"] == pytest.approx(10.0)


def test_saturation_by_rate_by_objective_and_by_giving_up() -> None:
    samples = [(i / 10, i / 10 + 0.05) for i in range(100)]
    assert point_record(10.0, run_of(samples, last_pass_s=11.0), None)["saturated"]
    missed = point_record(10.0, run_of(samples), slo_ms=40.0)
    assert missed["saturated"] and missed["goodput_per_s"] == 0.0
    given_up = point_record(10.0, run_of(samples[:1], unfinished=99, arrivals=100), None)
    assert given_up["saturated"] and given_up["errors"] == 99
    nothing = point_record(10.0, run_of([], unfinished=5, arrivals=5), slo_ms=40.0)
    assert nothing["saturated"] and nothing["achieved_rate"] == 0.0


@pytest.mark.parametrize("knee", [0.7, 3.0, 57.0])
def test_the_sweep_closes_in_on_the_knee(knee: float) -> None:
    points: list[dict[str, Any]] = []
    while (rate := next_rate(points, start=5.0)) is not None:
        points.append({"rate": rate, "saturated": rate > knee})
        assert len(points) <= MOST_POINTS
    borne = max(p["rate"] for p in points if not p["saturated"])
    assert borne <= knee <= borne * 1.16


def test_a_sweep_that_nothing_bears_ends() -> None:
    points: list[dict[str, Any]] = []
    while (rate := next_rate(points, start=5.0)) is not None:
        points.append({"rate": rate, "saturated": True})
    assert 1 < len(points) < 6
