"""Reading a bench report, of which any part may be missing because the run was stopped or a contestant failed."""

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
    """What lies under `keys`, or None where any of them is missing."""
    for key in keys:
        if not isinstance(record, Mapping):
            return None
        record = record.get(key)
    return record


def number(record: object, *keys: str) -> float | None:
    """The finite number under `keys`, or None."""
    value = at(record, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def records(record: object, *keys: str) -> list[Mapping[str, Any]]:
    """The objects in the list under `keys`; none where it is missing."""
    value = at(record, *keys)
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list | tuple) else []


def text(record: object, *keys: str) -> str | None:
    """The text or number under `keys` on one line, without control characters; None where missing or empty."""
    value = at(record, *keys)
    return None if value is None else one_line(str(value)) or None


def one_line(value: str) -> str:
    """`value` with every run of white space and control characters as one space: a peer's words reach a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in value).split())


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One contestant; `place` is its position among all, which decides its colour: rmexport has 0."""

    name: str
    place: int
    record: Mapping[str, Any]

    @property
    def status(self) -> str:
        return text(self.record, "status") or "not started"

    def scenario(self, name: str) -> Mapping[str, Any]:
        """What was measured in this scenario; empty where nothing was."""
        return next((s for s in records(self.record, "scenarios") if s.get("scenario") == name), {})

    @property
    def same_scores(self) -> bool | None:
        """Whether its scores agree with the reference's; None where they were not compared."""
        same = at(self.record, "parity", "same")
        return same if isinstance(same, bool) else None


def reference_names(report: Report) -> set[str]:
    """The contestants whose scores others were compared with."""
    return {name for c in records(report, "contestants") if (name := text(c, "parity", "reference"))}


def contestants(report: Report) -> list[Contestant]:
    """All contestants in the report's order, with rmexport in place 0 wherever it stands."""
    found = records(report, "contestants")
    names = [text(c, "name") or "?" for c in found]
    places = {i: place for place, i in enumerate(sorted(range(len(found)), key=lambda i: (names[i] != OWN, i)))}
    return [Contestant(name=name, place=places[i], record=found[i]) for i, name in enumerate(names)]


def with_scenario(report: Report, scenario: str) -> list[tuple[Contestant, Mapping[str, Any]]]:
    """The contestants that have results in `scenario`, with these results."""
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
    """Every comparison that has a ratio."""
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
    """By contestant, the comparison that stands for the scenario: the measure that the report names first."""
    found = [c for c in comparisons(report) if c.scenario == scenario]
    return {c.contestant: c for c in found if c.measure == found[0].measure}


def knee_point(server: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The measured point of the knee, which was not saturated and reached the knee's rate; None where there is none."""
    knee = number(server, "knee_rate")
    if knee is None:
        return None
    kept_up = [p for p in records(server, "points") if p.get("saturated") is False]
    near = [p for p in kept_up if math.isclose(number(p, "achieved_rate") or 0.0, knee, rel_tol=1e-6)]
    return near[0] if near else None
