"""The server scenario's judgement of a run, and how it looks for the knee."""

from typing import Any

import pytest

from rmexport.bench.scenarios import MOST_POINTS, next_rate, point_record


def run_of(samples: list[tuple[float, float]], **more: Any) -> dict[str, Any]:
    return {"samples": samples, "arrivals": len(samples), "span_s": 10.0, "last_pass_s": 9.0, "unfinished": 0, **more}


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
