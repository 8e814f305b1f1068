"""The verdict on a run: warnings of partial runs, wrong scores and missing contestants; then who is faster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rmexport.bench.report.fields import (
    OWN,
    SCENARIOS,
    Contestant,
    Report,
    at,
    comparisons,
    contestants,
    main_comparisons,
    number,
    records,
    text,
)
from rmexport.bench.report.quantities import figure, middle_elided, ratio_text

_MESSAGE = 500  # characters of a failed contestant's message; the page's table and the JSON have all of it
MEASURES = {
    "latency_ms": "p50 latency",
    "conversations_per_s": "conversations/s",
    "tokens_per_s": "tokens/s",
    "computed_tokens_per_s": "computed tokens/s",
    "knee_rate": "rate at the knee",
    "goodput_per_s": "goodput",
    "achieved_rate": "achieved rate",
}


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A warning; `level` is its severity."""

    level: Literal["bad", "warning"]
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Headline:
    """How rmexport compares in one scenario: with the fastest peer whose scores agree, and with all others."""

    scenario: str
    measure: str
    ratio: float
    peer: str
    others: tuple[tuple[str, float], ...]


def measure_text(measure: str) -> str:
    """A measure's name in words.

    >>> measure_text("latency_ms.p50"), measure_text("knee_rate")
    ('p50 latency', 'rate at the knee')
    """
    if measure.startswith("latency_ms."):
        return f"{measure.removeprefix('latency_ms.')} latency"
    return MEASURES.get(measure, measure.replace("_", " "))


def notices(report: Report) -> list[Notice]:
    """The warnings of a report, the worst first.

    >>> [notice.title for notice in notices({"contestants": [{"name": "vllm", "status": "failed"}]})]
    ['PARTIAL REPORT', 'FAILED: vllm']
    """
    found = _partial(report)
    for contestant in contestants(report):
        if contestant.same_scores is False:
            found.append(Notice(level="bad", title=f"WRONG SCORES: {contestant.name}", text=parity_text(contestant)))
    for contestant in contestants(report):
        found += _status(contestant)
        found += _unsettled(contestant)
        found += _saturated(contestant)
        found += _errors(contestant)
    return found


def parity_text(contestant: Contestant) -> str:
    """How far a contestant's scores are from the reference's, as one line.

    >>> parity = {"max_abs": 0.5, "tolerance": 0.05, "reference": "rmexport"}
    >>> parity_text(Contestant(name="vllm", place=1, record={"parity": parity}))
    'max abs difference 0.500 from rmexport, tolerance 0.0500'
    """
    parity = at(contestant.record, "parity")
    if number(parity, "max_abs") is None:
        return f"scores are missing or not finite; compared with {text(parity, 'reference') or 'the reference'}"
    words = [
        f"max abs difference {figure(at(parity, 'max_abs'))} from {text(parity, 'reference') or 'the reference'}",
        f"tolerance {figure(at(parity, 'tolerance'))}",
    ]
    if number(parity, "rms_tolerance") is not None:
        words.append(f"root mean square {figure(at(parity, 'rms'))}, tolerance {figure(at(parity, 'rms_tolerance'))}")
    if number(parity, "pairs"):
        words.append(f"{figure(at(parity, 'flipped_pairs'))} of {figure(at(parity, 'pairs'))} pairs flipped")
    return ", ".join(words)


def headlines(report: Report) -> list[Headline]:
    """One headline for each scenario with comparisons; only contestants whose scores agree with ours count.

    >>> comparison = {"scenario": "offline", "measure": "tokens_per_s", "contestant": "vllm", "ratio": 2.0}
    >>> peer = {"name": "vllm", "parity": {"same": True}}
    >>> [(h.peer, h.ratio) for h in headlines({"contestants": [peer], "comparisons": [comparison]})]
    [('vllm', 2.0)]
    """
    same = {c.name: c.same_scores for c in contestants(report)}
    if same.get(OWN) is False:
        return []
    found = []
    for scenario in SCENARIOS:
        fair = sorted(
            (c for c in main_comparisons(report, scenario).values() if same.get(c.contestant)), key=lambda c: c.ratio
        )
        if fair:
            others = tuple((c.contestant, c.ratio) for c in fair[1:])
            best = fair[0]
            found.append(
                Headline(scenario=scenario, measure=best.measure, ratio=best.ratio, peer=best.contestant, others=others)
            )
    return found


def summary(report: Report) -> str:
    """One sentence on the whole run.

    >>> summary({})
    'Nothing to compare with: no other contestant has results.'
    """
    lines = [
        f"{ratio_text(h.ratio)} as fast as {h.peer} in {h.scenario} ({measure_text(h.measure)})"
        for h in headlines(report)
    ]
    if lines:
        return f"rmexport is {'; '.join(lines)}."
    if comparisons(report):
        return "No comparison counts: no other contestant was seen to give the same scores."
    return "Nothing to compare with: no other contestant has results."


def _partial(report: Report) -> list[Notice]:
    if at(report, "complete") is True:
        return []
    reason = text(report, "stopped") or "the run did not finish"
    return [
        Notice(
            level="bad",
            title="PARTIAL REPORT",
            text=f"{reason}; figures that were not reached are missing, those shown rest on what was measured by then",
        )
    ]


def _status(contestant: Contestant) -> list[Notice]:
    if contestant.status == "ok":
        return []
    message = middle_elided(text(contestant.record, "message") or "no message", _MESSAGE)
    level: Literal["bad", "warning"] = "bad" if contestant.status == "failed" else "warning"
    return [Notice(level=level, title=f"{contestant.status.upper()}: {contestant.name}", text=message)]


def _unsettled(contestant: Contestant) -> list[Notice]:
    found = [s for s in SCENARIOS if contestant.scenario(s).get("settled") is False]
    if not found:
        return []
    words = f"times still changed by more than the warm-up rule allows when measuring began, in {', '.join(found)}"
    return [Notice(level="warning", title=f"NOT SETTLED: {contestant.name}", text=words)]


def _saturated(contestant: Contestant) -> list[Notice]:
    points = records(contestant.scenario("server"), "points")
    if not points or not all(point.get("saturated") for point in points):
        return []
    words = "kept up with no rate in server, so it has no knee; its ratio is of the highest rates achieved"
    return [Notice(level="warning", title=f"SATURATED: {contestant.name}", text=words)]


def _errors(contestant: Contestant) -> list[Notice]:
    parts = [(s, e) for s in SCENARIOS if (e := error_count(contestant.scenario(s)))]
    if not parts:
        return []
    words = ", ".join(f"{e:,} in {s}" for s, e in parts)
    return [Notice(level="bad", title=f"ERRORS: {contestant.name}", text=f"requests without a score: {words}")]


def error_count(scenario: Mapping[str, Any]) -> int:
    """How many requests failed in a scenario; those that a saturated rate leaves unfinished do not count.

    >>> error_count({"errors": 1, "points": [{"errors": 5, "saturated": True}, {"errors": 2, "saturated": False}]})
    3
    """
    points = [p for p in records(scenario, "points") if not p.get("saturated")]
    return int(sum(number(part, "errors") or 0 for part in (scenario, *points)))
