"""Reads fields of a report, any of which may be missing because the run was stopped or a contestant failed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]

SCENARIOS = ("single-stream", "server", "offline")
PERCENTILES = ("p50", "p90", "p95", "p99", "p99.9")
SPLIT_PARTS = ("template", "tokenize", "plan", "engine", "output")
OWN = "rmexport"


def at(record: object, *keys: str) -> Any:
    """The value under `keys`, one object inside another, or None where any of them is missing.

    >>> at({"machine": {"cores": 2}}, "machine", "cores"), at({}, "machine", "cores")
    (2, None)
    """
    for key in keys:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def number(record: object, *keys: str) -> float | None:
    """The finite number under `keys`, or None.

    >>> number({"seconds": 1.5}, "seconds"), number({"seconds": "long"}, "seconds")
    (1.5, None)
    """
    value = at(record, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def records(record: object, *keys: str) -> list[Mapping[str, Any]]:
    """The objects in the list under `keys`; an empty list where it is missing.

    >>> records({"points": [{"rate": 2.0}, None]}, "points")
    [{'rate': 2.0}]
    """
    value = at(record, *keys)
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list | tuple) else []


def text(record: object, *keys: str) -> str | None:
    """The text or number under `keys` on one line, without control characters; None where missing or empty.

    >>> text({"message": "out of\\nmemory"}, "message")
    'out of memory'
    """
    value = at(record, *keys)
    return None if value is None else one_line(str(value)) or None


def one_line(value: str) -> str:
    """`value` with each run of white space and control characters as one space, so that a terminal can show it.

    >>> one_line("out of\\n\\tmemory")
    'out of memory'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One contestant of a report, with its record; `place` decides its colour, and is 0 for rmexport."""

    name: str
    place: int
    record: Mapping[str, Any]

    @property
    def status(self) -> str:
        return text(self.record, "status") or "not started"

    def scenario(self, name: str) -> Mapping[str, Any]:
        """The contestant's record of the scenario `name`; empty where it was not measured."""
        return next((s for s in records(self.record, "scenarios") if s.get("scenario") == name), {})

    @property
    def same_scores(self) -> bool | None:
        """Whether its scores agree with the reference's; None where they were not compared."""
        same = at(self.record, "parity", "same")
        return same if isinstance(same, bool) else None


def reference_names(report: Report) -> set[str]:
    """The names of contestants with whose scores others were compared.

    >>> reference_names({"contestants": [{"name": "vllm", "parity": {"reference": "rmexport"}}]})
    {'rmexport'}
    """
    return {name for c in records(report, "contestants") if (name := text(c, "parity", "reference"))}


def contestants(report: Report) -> list[Contestant]:
    """All contestants in the report's order; rmexport has place 0 even where it is not the first.

    >>> [(c.name, c.place) for c in contestants({"contestants": [{"name": "vllm"}, {"name": "rmexport"}]})]
    [('vllm', 1), ('rmexport', 0)]
    """
    found = records(report, "contestants")
    names = [text(c, "name") or "?" for c in found]
    places = {i: place for place, i in enumerate(sorted(range(len(found)), key=lambda i: (names[i] != OWN, i)))}
    return [Contestant(name=name, place=places[i], record=found[i]) for i, name in enumerate(names)]


def with_scenario(report: Report, scenario: str) -> list[tuple[Contestant, Mapping[str, Any]]]:
    """The contestants that have a record of `scenario`, with these records.

    >>> found = with_scenario({"contestants": [{"name": "vllm", "scenarios": [{"scenario": "offline"}]}]}, "offline")
    >>> [contestant.name for contestant, _ in found]
    ['vllm']
    """
    pairs = [(c, c.scenario(scenario)) for c in contestants(report)]
    return [(c, s) for c, s in pairs if s]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times as fast as a peer rmexport is (`ratio` > 1: faster)."""

    scenario: str
    measure: str
    contestant: str
    ratio: float


def comparisons(report: Report) -> list[Comparison]:
    """Every comparison of a report that has a ratio.

    >>> record = {"scenario": "offline", "measure": "tokens_per_s", "contestant": "vllm", "ratio": 2.0}
    >>> comparisons({"comparisons": [record]})
    [Comparison(scenario='offline', measure='tokens_per_s', contestant='vllm', ratio=2.0)]
    """
    return [
        Comparison(
            scenario=text(c, "scenario") or "?",
            measure=text(c, "measure") or "?",
            contestant=text(c, "contestant") or "?",
            ratio=ratio,
        )
        for c in records(report, "comparisons")
        if (ratio := number(c, "ratio")) is not None
    ]


def main_comparisons(report: Report, scenario: str) -> dict[str, Comparison]:
    """The scenario's main comparison with each contestant, by name: that of the measure that the report has first.

    >>> record = {"scenario": "offline", "measure": "tokens_per_s", "contestant": "vllm", "ratio": 2.0}
    >>> main_comparisons({"comparisons": [record]}, "offline")["vllm"].ratio
    2.0
    """
    found = [c for c in comparisons(report) if c.scenario == scenario]
    return {c.contestant: c for c in found if c.measure == found[0].measure}


def knee_point(server: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The point at the knee of a server record: not saturated, and with the knee's rate; None where there is none.

    >>> points = [{"achieved_rate": 2.0, "saturated": False}, {"achieved_rate": 3.0, "saturated": True}]
    >>> knee_point({"knee_rate": 2.0, "points": points})
    {'achieved_rate': 2.0, 'saturated': False}
    """
    knee = number(server, "knee_rate")
    if knee is None:
        return None
    kept_up = [p for p in records(server, "points") if p.get("saturated") is False]
    near = [p for p in kept_up if math.isclose(number(p, "achieved_rate") or 0.0, knee, rel_tol=1e-6)]
    return near[0] if near else None
