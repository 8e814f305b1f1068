"""The page's tables of results: one per scenario, the parts of the time, scores, cold start and memory."""

from collections.abc import Mapping
from typing import Any

from rmexport.bench.report.fields import (
    OWN,
    PERCENTILES,
    SPLIT_PARTS,
    Contestant,
    Report,
    at,
    contestants,
    knee_point,
    main_comparisons,
    number,
    records,
    reference_names,
    text,
    with_scenario,
)
from rmexport.bench.report.plots.time_split import splits
from rmexport.bench.report.quantities import MISSING, bytes_text, figure, percent_text, ratio_text, short
from rmexport.bench.report.sheets import Cell, Sheet, errors_cell, name_cell, number_cell, text_cell
from rmexport.bench.report.verdict import error_count, measure_text

_FEW = "* fewer requests than the percentile needs (100 for p99, 1,000 for p99.9): close to the maximum."
_RATIO = "Ratio: how many times as fast rmexport is."
_NEEDS = {"p99": 100, "p99.9": 1000}


def result_sheets(report: Report) -> list[Sheet]:
    """Every table of results that has a row.

    >>> [sheet.title for sheet in result_sheets({"contestants": [{"name": "rmexport", "status": "ok"}]})]
    ['Scores', 'Cold start and memory']
    """
    made = (
        single_stream(report),
        server(report),
        offline(report),
        split(report),
        scores(report),
        start(report),
        warm_up(report),
    )
    return [sheet for sheet in made if sheet.rows]


def ratio_column(report: Report, scenario: str) -> tuple[str, dict[str, str]]:
    """The head of the scenario's column of ratios, and the ratio of each contestant by name.

    >>> record = {"scenario": "offline", "measure": "tokens_per_s", "contestant": "vllm", "ratio": 2.0}
    >>> ratio_column({"comparisons": [record]}, "offline")
    ('ratio by tokens/s', {'vllm': '2.00×'})
    """
    found = main_comparisons(report, scenario)
    measure = next((measure_text(c.measure) for c in found.values()), "")
    return f"ratio by {measure}" if measure else "ratio", {n: ratio_text(c.ratio) for n, c in found.items()}


def _ratio(contestant: Contestant, ratios: Mapping[str, str]) -> Cell:
    return number_cell("1" if contestant.name == OWN else ratios.get(contestant.name, MISSING))


def percentile_cells(latency: Any) -> list[Cell]:
    """Cells with p50 to p99.9 of a latency's statistics; percentiles of too few samples get a star.

    >>> [cell.text for cell in percentile_cells({"count": 64, "p50": 12.0, "p99": 20.0})]
    ['12.0', '–', '–', '20.0*', '–*']
    """
    count = number(latency, "count") or 0
    return [number_cell(figure(at(latency, p)) + ("*" if 0 < count < _NEEDS.get(p, 0) else "")) for p in PERCENTILES]


def single_stream(report: Report) -> Sheet:
    """The table of the scenario single-stream: latency of one request at a time, in ms.

    >>> scenario = {"scenario": "single-stream", "latency_ms": {"count": 64, "mean": 12.5}}
    >>> contestant = {"name": "rmexport", "status": "ok", "scenarios": [scenario]}
    >>> [cell.text for cell in single_stream({"contestants": [contestant]}).rows[0][:3]]
    ['rmexport', '64', '12.5']
    """
    head, ratios = ratio_column(report, "single-stream")
    rows = tuple(
        (
            name_cell(c),
            number_cell(figure(at(s, "latency_ms", "count"))),
            *(number_cell(figure(at(s, "latency_ms", k))) for k in ("mean", "std", "min")),
            *percentile_cells(at(s, "latency_ms")),
            number_cell(figure(at(s, "latency_ms", "max"))),
            number_cell(_range(at(s, "repeat_p50_ms"))),
            _ratio(c, ratios),
            errors_cell(error_count(s)),
        )
        for c, s in with_scenario(report, "single-stream")
    )
    columns = ("contestant", "requests", "mean", "std", "min", *PERCENTILES, "max", "p50 by repeat", head, "errors")
    return Sheet(
        title="Single-stream: latency, ms",
        columns=columns,
        rows=rows,
        note=_RATIO + (f" {_FEW}" if _starred(rows) else ""),
    )


def server(report: Report) -> Sheet:
    """The table of the scenario server: every rate of every contestant.

    >>> scenario = {"scenario": "server", "points": [{"rate": 8.0, "achieved_rate": 7.9}]}
    >>> contestant = {"name": "rmexport", "status": "ok", "scenarios": [scenario]}
    >>> [cell.text for cell in server({"contestants": [contestant]}).rows[0][:3]]
    ['rmexport', '8.00', '7.90']
    """
    rows = []
    for contestant, scenario in with_scenario(report, "server"):
        knee = knee_point(scenario)
        for point in records(scenario, "points"):
            rows.append(_point(contestant, point, _state(point, knee)))
    columns = ("contestant", "rate given, /s", "reached, /s", "seconds", "requests", *(f"{p}, ms" for p in PERCENTILES),
               "max, ms", "goodput, /s", "state", "no score")  # fmt: skip
    note = (
        "Poisson arrivals; latency from the scheduled time. No score: requests that failed or were left unfinished. "
        + (_FEW if _starred(tuple(rows)) else "")
    )
    return Sheet(title=f"Server{_slo(report)}", columns=columns, rows=tuple(rows), note=note.strip())


def _point(contestant: Contestant, point: Mapping[str, Any], state: Cell) -> tuple[Cell, ...]:
    return (
        name_cell(contestant),
        number_cell(figure(at(point, "rate"))),
        number_cell(figure(at(point, "achieved_rate"))),
        number_cell(figure(at(point, "seconds"))),
        number_cell(figure(at(point, "latency_ms", "count"))),
        *percentile_cells(at(point, "latency_ms")),
        number_cell(figure(at(point, "latency_ms", "max"))),
        number_cell(figure(at(point, "goodput_per_s"))),
        state,
        number_cell(figure(at(point, "errors"))),
    )


def _state(point: Mapping[str, Any], knee: Mapping[str, Any] | None) -> Cell:
    if point is knee:
        return Cell(text="knee", kind="good")
    return Cell(text="saturated", kind="bad") if point.get("saturated") else text_cell("kept up")


def _slo(report: Report) -> str:
    limits = sorted({v for _, s in with_scenario(report, "server") if (v := number(s, "slo_ms"))})
    return f": SLO {', '.join(figure(v) for v in limits)} ms" if limits else ""


def offline(report: Report) -> Sheet:
    """The table of the scenario offline: throughput of the whole workload at once.

    >>> scenario = {"scenario": "offline", "conversations_per_s": 25.0, "tokens_per_s": 6400.0}
    >>> contestant = {"name": "rmexport", "status": "ok", "scenarios": [scenario]}
    >>> [cell.text for cell in offline({"contestants": [contestant]}).rows[0][:3]]
    ['rmexport', '25.0', '6,400']
    """
    head, ratios = ratio_column(report, "offline")
    rows = tuple(
        (
            name_cell(c),
            *(number_cell(figure(at(s, k))) for k in ("conversations_per_s", "tokens_per_s", "computed_tokens_per_s")),
            number_cell(figure(at(s, "padded_tokens"))),
            number_cell(percent_text(number(s, "gemm_share"))),
            number_cell(figure(at(s, "seconds"))),
            number_cell(str(len(records(s, "repeats")))),
            number_cell(percent_text(number(s, "spread"))),
            _ratio(c, ratios),
            errors_cell(error_count(s)),
        )
        for c, s in with_scenario(report, "offline")
    )
    columns = ("contestant", "conversations/s", "given tokens/s", "computed tokens/s", "padded tokens", "of Gemm peak",
               "best, s", "repeats", "spread", head, "errors")  # fmt: skip
    note = f"Rates are those of the best repeat; spread is (slowest - fastest) / fastest over the repeats. {_RATIO}"
    return Sheet(title="Offline: throughput", columns=columns, rows=rows, note=note)


def split(report: Report) -> Sheet:
    """The table of the parts of the time, for contestants that report them.

    >>> split({}).columns[:3]
    ('contestant', 'scenario', 'template')
    """
    rows = tuple(
        (
            name_cell(s.contestant),
            text_cell(s.scenario),
            *(number_cell(short(s.parts.get(p), 1, s.unit)) for p in (*SPLIT_PARTS, "other")),
            number_cell(percent_text(s.outside)),
        )
        for s in splits(report)
    )
    columns = ("contestant", "scenario", *SPLIT_PARTS, "other", "outside the engine")
    return Sheet(
        title="Where the time goes",
        columns=columns,
        rows=rows,
        note="Means of a request in single-stream; the best repeat in offline.",
    )


def scores(report: Report) -> Sheet:
    """The table of scores: how well each contestant's agree with the reference's, in the same run.

    >>> contestant = {"name": "vllm", "status": "ok", "parity": {"same": True, "reference": "rmexport"}}
    >>> [cell.text for cell in scores({"contestants": [contestant]}).rows[0][:3]]
    ['vllm', 'same scores', 'rmexport']
    """
    rows = tuple(
        (
            name_cell(c),
            score_cell(report, c),
            text_cell(text(c.record, "parity", "reference")),
            *(number_cell(figure(at(c.record, "parity", k))) for k in ("max_abs", "mean_abs", "tolerance")),
            number_cell(_correlation(c)),
            number_cell(_flipped(c)),
        )
        for c in contestants(report)
        if c.status == "ok" or c.same_scores is not None
    )
    columns = ("contestant", "scores", "compared with", "max abs", "mean abs", "tolerance", "Spearman", "flipped pairs")
    note = "Measured in the same run on the same conversations: a fast wrong score is a failure."
    return Sheet(title="Scores", columns=columns, rows=rows, note=note)


def score_cell(report: Report, contestant: Contestant) -> Cell:
    """The cell that tells whether a contestant's scores are the same as the reference's.

    >>> score_cell({}, Contestant(name="vllm", place=1, record={"parity": {"same": False}})).text
    'WRONG SCORES'
    """
    if contestant.same_scores is None:
        return Cell(text="reference" if contestant.name in reference_names(report) else "not compared")
    same = contestant.same_scores
    return Cell(text="same scores" if same else "WRONG SCORES", kind="good" if same else "bad")


def _correlation(contestant: Contestant) -> str:
    value = number(contestant.record, "parity", "spearman")
    return MISSING if value is None else f"{value:.5f}"  # three figures would round most to 1


def _flipped(contestant: Contestant) -> str:
    pairs = number(contestant.record, "parity", "pairs")
    return f"{figure(at(contestant.record, 'parity', 'flipped_pairs'))} of {figure(pairs)}" if pairs else MISSING


def start(report: Report) -> Sheet:
    """The table of cold start and memory of every contestant, also of those that failed.

    >>> contestant = {"name": "rmexport", "status": "ok", "load_s": 0.52}
    >>> [cell.text for cell in start({"contestants": [contestant]}).rows[0][:4]]
    ['rmexport', 'ok', '–', '0.520 s']
    """
    rows = tuple(
        (
            name_cell(c),
            Cell(text=c.status, kind="good" if c.status == "ok" else "bad"),
            number_cell(short(number(c.record, "prepare_s"), 1, "s")),
            number_cell(short(number(c.record, "load_s"), 1, "s")),
            number_cell(short(number(c.record, "first_score_s"), 1, "s")),
            number_cell(bytes_text(number(c.record, "peak_bytes", "anonymous"))),
            number_cell(bytes_text(number(c.record, "peak_bytes", "resident"))),
        )
        for c in contestants(report)
    )
    columns = (
        "contestant",
        "status",
        "conversion",
        "load",
        "first score",
        "peak anonymous memory",
        "peak resident memory",
    )
    return Sheet(title="Cold start and memory", columns=columns, rows=rows)


def warm_up(report: Report) -> Sheet:
    """The table of the warm-up, which ends when two successive figures agree.

    >>> scenario = {"scenario": "offline", "warm_up_s": [2.0, 1.5, 1.5], "settled": True}
    >>> contestant = {"name": "rmexport", "status": "ok", "scenarios": [scenario]}
    >>> [cell.text for cell in warm_up({"contestants": [contestant]}).rows[0]]
    ['rmexport', 'offline', '2.00 s, 1.50 s, 1.50 s', 'yes']
    """
    rows = tuple(
        (
            name_cell(c),
            text_cell(scenario),
            text_cell(", ".join(figure(v, unit) for v in s.get(key) or [])),
            Cell(text="no", kind="bad")
            if s.get("settled") is False
            else text_cell("yes" if s.get("settled") else None),
        )
        for scenario, key, unit in (("single-stream", "warm_up_p50_ms", "ms"), ("offline", "warm_up_s", "s"))
        for c, s in with_scenario(report, scenario)
        if key in s
    )
    note = "p50 of each window (single-stream) or time of each pass (offline) before measuring; none of them counts."
    return Sheet(title="Warm-up", columns=("contestant", "scenario", "figures", "settled"), rows=rows, note=note)


def _range(values: Any) -> str:
    known = [v for v in values or [] if isinstance(v, int | float)]
    return f"{figure(min(known))} to {figure(max(known))}" if known else MISSING


def _starred(rows: tuple[tuple[Cell, ...], ...]) -> bool:
    return any(cell.text.endswith("*") for row in rows for cell in row if cell.kind == "number")
