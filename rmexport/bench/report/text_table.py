"""The report as plain text for a terminal: one row per contestant, and warnings below it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rmexport.bench.report.fields import (
    OWN,
    SCENARIOS,
    Contestant,
    Report,
    at,
    contestants,
    knee_point,
    main_comparisons,
    number,
    reference_names,
    text,
    with_scenario,
)
from rmexport.bench.report.quantities import (
    MISSING,
    TIMES,
    bytes_text,
    count_text,
    figure,
    middle_elided,
    percent_text,
    ratio_text,
)
from rmexport.bench.report.verdict import measure_text, notices, summary

_ASCII = str.maketrans({TIMES: "x", MISSING: "-", "…": "~", "·": "|"})  # for terminals without Unicode


@dataclass(frozen=True, kw_only=True)
class _Column:
    """A column of one scenario: its head, and its text for a scenario's record."""

    head: str
    read: Callable[[Mapping[str, Any]], str]


_COLUMNS: Mapping[str, tuple[_Column, ...]] = {
    "single-stream": (
        _Column(head="p50 ms", read=lambda s: figure(at(s, "latency_ms", "p50"))),
        _Column(head="p99 ms", read=lambda s: figure(at(s, "latency_ms", "p99"))),
    ),
    "server": (
        _Column(head="knee/s", read=lambda s: figure(at(s, "knee_rate"))),
        _Column(head="p99 ms", read=lambda s: figure(at(knee_point(s), "latency_ms", "p99"))),
    ),
    "offline": (
        _Column(head="conv/s", read=lambda s: figure(at(s, "conversations_per_s"))),
        _Column(head="tokens/s", read=lambda s: figure(at(s, "tokens_per_s"))),
        _Column(head="of peak", read=lambda s: percent_text(number(s, "gemm_share"))),
    ),
}


def table(report: Report) -> str:
    """The report as text for a terminal, about 100 columns wide; needs no matplotlib.

    >>> contestant = {"name": "rmexport", "status": "ok", "peak_bytes": {"anonymous": 2_500_000_000}}
    >>> for line in table({"complete": True, "contestants": [contestant]}).splitlines()[-5:-2]:
    ...     print(line)
    <BLANKLINE>
    contestant   memory  scores
    rmexport    2.50 GB  not compared
    """
    lines = [_title(report), _machine(report), ""]
    if contestants(report):
        lines += [*_rows(report), "", *_engine(report), *_legend(report)]
    else:
        lines += ["no contestant was started", ""]
    lines += [f"!! {n.title}: {n.text}" for n in notices(report)]
    return "\n".join([*lines, summary(report)]).translate(_ASCII)


def _title(report: Report) -> str:
    bundle, workload = at(report, "bundle"), at(report, "workload")
    parameters = number(bundle, "parameters")
    model = (text(bundle, "model_type"), f"{count_text(parameters)} parameters" if parameters else None,
             text(bundle, "dtype"))  # fmt: skip
    if not bundle:
        return "rmexport bench"
    size = f"{figure(at(workload, 'sequences'))} sequences, {figure(at(workload, 'tokens'))} tokens"
    return (
        f"rmexport bench: {text(bundle, 'name') or '?'} ({', '.join(m for m in model if m)}), "
        f"workload {text(workload, 'name') or '?'} ({size})"
    )


def _machine(report: Report) -> str:
    machine = at(report, "machine")
    if not machine:
        return "machine and start not recorded"
    words = (text(machine, "cpu"), f"{figure(at(machine, 'cores'))} cores", bytes_text(number(machine, "memory_bytes")))
    return f"{', '.join(w for w in words if w)}; {text(report, 'started') or 'start not recorded'}"


def _rows(report: Report) -> list[str]:
    """The lines of the table: two with heads, then one per contestant."""
    scenarios = [s for s in SCENARIOS if with_scenario(report, s)]
    names = ["contestant", *(middle_elided(c.name, 28) for c in contestants(report))]
    blocks = [_block(["", *names], left=True)]
    for scenario in scenarios:
        blocks.append(_scenario_block(report, scenario))
    memory = [bytes_text(number(c.record, "peak_bytes", "anonymous")) for c in contestants(report)]
    blocks.append(_block(["", "memory", *memory]))
    blocks.append(_block(["", "scores", *(_flag(report, c) for c in contestants(report))], left=True))
    return ["  ".join(parts).rstrip() for parts in zip(*blocks, strict=True)]


def _scenario_block(report: Report, scenario: str) -> list[str]:
    """The columns of a scenario, as lines of one width: its name, the columns' heads, one line per contestant."""
    ratios = main_comparisons(report, scenario)
    found = contestants(report)
    columns = [_block([c.head, *(c.read(r) if (r := k.scenario(scenario)) else "-" for k in found)])
               for c in _COLUMNS[scenario]]  # fmt: skip
    if ratios:
        shown = (ratio_text(ratios[k.name].ratio) if k.name in ratios else "1" if k.name == OWN else "-" for k in found)
        columns.append(_block(["ratio", *shown]))
    lines = ["  ".join(parts) for parts in zip(*columns, strict=True)]
    return _block([scenario.center(len(lines[0]), "."), *lines], left=True)


def _block(cells: list[str], *, left: bool = False) -> list[str]:
    width = max(len(c) for c in cells)
    return [c.ljust(width) if left else c.rjust(width) for c in cells]


def _flag(report: Report, contestant: Contestant) -> str:
    if contestant.status != "ok":
        return contestant.status.upper()
    if contestant.same_scores is None:
        return "reference" if contestant.name in reference_names(report) else "not compared"
    return "same scores" if contestant.same_scores else "WRONG SCORES"


def _engine(report: Report) -> list[str]:
    """The engine that scored the bundle, and the reason for it."""
    own = next((c.record for c in contestants(report) if c.name == OWN), {})
    settings, precision = text(own, "settings"), text(own, "precision")
    return [f"{OWN}: {precision} on {settings}", ""] if settings and precision else []


def _legend(report: Report) -> list[str]:
    """The line that explains the ratios."""
    measures = [(s, next(iter(main_comparisons(report, s).values()), None)) for s in SCENARIOS]
    words = ", ".join(f"{s} by {measure_text(c.measure)}" for s, c in measures if c is not None)
    return [f"ratio: how many times as fast rmexport is ({words})", ""] if words else []
