"""The three scenarios, with MLPerf's names: each measures the contestants in turns and fills in their records."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmexport.bench.contestants import Contestant
from rmexport.bench.options import BenchOptions
from rmexport.bench.sample_statistics import statistics_of
from rmexport.bench.workload import Workload

SETTLE_S = 0.25  # seconds between turns: thread pools of the contestant before may still be spinning
AGREEMENT = 0.10  # successive warm-up passes whose times differ by less than this share agree
MOST_WARM_PASSES = 5
GROWTH = 1.5  # factor of the rate from one point of a sweep to the next
FINE = 1.15  # the search for the knee ends where two rates are within this factor
MOST_POINTS, MOST_DESCENTS = 14, 4  # points of a sweep in all, and those below its first rate
REACHED = 0.95  # a contestant that finishes less than this share of the arrivals is saturated

Tell = Callable[[str], None]
Check = Callable[[Contestant, Sequence[float | None]], None]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What every scenario needs; `save` is called after each finished part, `check` with the scores of each pass."""

    contestants: Sequence[Contestant]
    options: BenchOptions
    workload: Workload
    matmul_parameters: int
    peaks: dict[str, float]
    save: Callable[[], None]
    check: Check
    tell: Tell

    def turn(self, what: str, piece: Callable[[Contestant], object], who: Sequence[Contestant] | None = None) -> None:
        """Have every running contestant do `piece`, one after the other; `what` describes it to the user."""
        for contestant in self.contestants if who is None else who:
            if contestant.running:
                self.tell(f"{contestant.entrant.name}: {what}")
                time.sleep(SETTLE_S)
                contestant.attempt(piece)
                self.save()

    def order(self) -> list[int]:
        """The numbers of the requests in a single-stream repeat: those of the workload, in turn."""
        return [i % len(self.workload.requests) for i in range(self.options.requests)]


def single_stream(m: Measurement) -> None:
    """Measure one request at a time: latency in ms, one sample per request."""
    m.turn("single-stream, warm-up", lambda c: _warm_up_single(c, m))
    for number in range(m.options.repeats):
        m.turn(f"single-stream {number + 1} of {m.options.repeats}", lambda c: _repeat_single(c, m))


def _warm_up_single(contestant: Contestant, m: Measurement) -> None:
    found = contestant.ask("warm_up", order=m.order(), window=m.options.warmup, limit_s=m.options.duration_s)
    record = _scenario(contestant, "single-stream", {"warm_up_p50_ms": found["p50_ms"], "settled": found["settled"]})
    record |= {"repeats": [], "latency_ms": statistics_of([]), "repeat_p50_ms": [], "split_ms": None, "errors": 0}


def _repeat_single(contestant: Contestant, m: Measurement) -> None:
    record = _scenario(contestant, "single-stream")
    found = contestant.ask("single", order=m.order(), limit_s=m.options.duration_s)
    record["repeats"].append({"latency_ms": found["latency_ms"], "split_ms": found["split_ms"]})
    record["latency_ms"] = statistics_of([ms for r in record["repeats"] for ms in r["latency_ms"]])
    record["repeat_p50_ms"] = [statistics_of(r["latency_ms"])["p50"] for r in record["repeats"]]
    splits = [r["split_ms"] for r in record["repeats"] if r["split_ms"] is not None]
    if splits:
        record["split_ms"] = {part: statistics_of([ms for s in splits for ms in s[part]]) for part in splits[0]}


def offline(m: Measurement) -> None:
    """Measure all requests at once; the best repeat counts, and the spread of the repeats is reported."""
    m.turn("offline, warm-up", lambda c: _warm_up_offline(c, m))
    for number in range(m.options.repeats):
        m.turn(f"offline {number + 1} of {m.options.repeats}", lambda c: _repeat_offline(c, m))


def _warm_up_offline(contestant: Contestant, m: Measurement) -> None:
    """Score everything until the times of two successive passes agree within 10 %, five times at most."""
    seconds: list[float] = []
    while len(seconds) < MOST_WARM_PASSES and not _agree(seconds):
        found = contestant.ask("offline")
        m.check(contestant, found["scores"])
        seconds.append(found["seconds"])
    record = _scenario(contestant, "offline", {"warm_up_s": seconds, "settled": _agree(seconds)})
    record |= {"repeats": [], "errors": 0}


def _agree(seconds: Sequence[float]) -> bool:
    return len(seconds) > 1 and abs(seconds[-1] - seconds[-2]) <= AGREEMENT * seconds[-2]


def _repeat_offline(contestant: Contestant, m: Measurement) -> None:
    record = _scenario(contestant, "offline")
    found = contestant.ask("offline")
    m.check(contestant, found["scores"])
    record["repeats"].append({"seconds": found["seconds"]})
    times = [r["seconds"] for r in record["repeats"]]
    best = min(times)
    if best == found["seconds"]:
        record["split_s"] = found["split_s"]
    computed = found["computed"]
    record |= {
        "seconds": best,
        "spread": (max(times) - best) / best,
        "conversations_per_s": len(m.workload.sequences) / best,
        "tokens_per_s": sum(map(len, m.workload.sequences)) / best,
        "computed_tokens": computed,
        "computed_tokens_per_s": None if computed is None else computed / best,
        "padded_tokens": found["padded"],
        "gemm_share": _gemm_share(computed, best, m.peaks.get(str(contestant.record["precision"])), m),
    }


def _gemm_share(computed: int | None, seconds: float, peak: float | None, m: Measurement) -> float | None:
    """The share of the peak rate: computed tokens x 2 x matmul parameters / seconds / peak of the same dtype.

    The bundle's computed tokens are those after prefix sharing, a peer's include padding.
    """
    if computed is None or not peak or not m.matmul_parameters:
        return None
    return computed * 2 * m.matmul_parameters / seconds / peak


def server(m: Measurement) -> None:
    """Measure Poisson arrivals, at the rates given, or from half of the single-stream capacity up to the knee."""
    if m.options.rates:
        for rate in sorted(m.options.rates):
            m.turn(f"server at {rate:g} requests a second", functools.partial(_point, rate=rate, m=m))
    else:
        _sweep(m)


def _sweep(m: Measurement) -> None:
    """Search for each contestant's knee, from its own first rate; contestants take turns point by point."""
    starts: dict[str, float] = {}
    m.turn("server, capacity", lambda c: starts.update({c.entrant.name: capacity(c, m) / 2}))
    while climbing := [c for c in m.contestants if c.running and _following(c, starts) is not None]:
        m.turn("server, looking for the knee", lambda c: _point(c, _following(c, starts) or 0.0, m), climbing)


def _following(contestant: Contestant, starts: Mapping[str, float]) -> float | None:
    return next_rate(_server_record(contestant)["points"], starts[contestant.entrant.name])


def next_rate(points: Sequence[Mapping[str, Any]], start: float) -> float | None:
    """The rate to try next, in requests per second; None when the knee is known well enough.

    The rate grows by half until a point is saturated (or is halved where the first point is saturated); then rates
    between the highest sustained one and the lowest saturated one are tried.

    >>> next_rate([], start=4.0)
    4.0
    >>> next_rate([{"rate": 4.0, "saturated": False}], start=4.0)
    6.0
    >>> next_rate([{"rate": 4.0, "saturated": False}, {"rate": 9.0, "saturated": True}], start=4.0)
    6.0
    """
    sustained = [point["rate"] for point in points if not point["saturated"]]
    saturated = [point["rate"] for point in points if point["saturated"]]
    if not points:
        return start
    if len(points) >= MOST_POINTS:
        return None
    if not saturated:
        return float(max(sustained)) * GROWTH
    if not sustained:
        return float(min(saturated)) / 2 if len(saturated) < MOST_DESCENTS else None
    low, high = max(sustained), min(saturated)
    return float(low * high) ** 0.5 if high > FINE * low > 0 else None


def _server_record(contestant: Contestant) -> dict[str, Any]:
    return _scenario(contestant, "server", {"slo_ms": None, "knee_rate": None, "points": []})


def capacity(contestant: Contestant, m: Measurement) -> float:
    """Requests per second, one at a time: from the single-stream scenario where it ran, else from a warm-up."""
    known = next((s for s in contestant.record["scenarios"] if s["scenario"] == "single-stream"), None)
    if known is not None and known["latency_ms"]["p50"]:
        return 1e3 / float(known["latency_ms"]["p50"])
    found = contestant.ask("warm_up", order=m.order(), window=m.options.warmup, limit_s=m.options.duration_s)
    return 1e3 / float(found["p50_ms"][-1])


def _point(contestant: Contestant, rate: float, m: Measurement) -> None:
    options = m.options
    found = contestant.ask(
        "server", rate=rate, duration_s=options.duration_s, drain_s=options.duration_s, seed=options.seed
    )
    record = _server_record(contestant)
    record["slo_ms"] = options.slo_ms
    record["points"] = sorted([*record["points"], point_record(rate, found, options.slo_ms)], key=lambda p: p["rate"])
    good = [p["achieved_rate"] for p in record["points"] if not p["saturated"]]
    record["knee_rate"] = max(good, default=None)


def point_record(rate: float, found: dict[str, Any], slo_ms: float | None) -> dict[str, Any]:
    """The report's record of one run at one rate, from the worker's reply `found`.

    Latency counts from the scheduled time of a request. `seconds` is how long requests arrived, or until the last pass
    began where that was later. The contestant is saturated when it finished less than 95 % of the arrivals in that
    time, left some unfinished, or missed the latency objective at p99.

    >>> found = {"samples": [(0.0, 0.5), (1.0, 1.5)], "arrivals": 2, "span_s": 1.0, "last_pass_s": 1.0, "unfinished": 0}
    >>> record = point_record(2.0, found, slo_ms=None)
    >>> record["achieved_rate"], record["latency_ms"]["p50"], record["saturated"]
    (2.0, 500.0, False)
    """
    latencies = [(done - scheduled) * 1e3 for scheduled, done in found["samples"]]
    seconds = max(found["span_s"], found["last_pass_s"])
    statistics = statistics_of(latencies)
    achieved = len(latencies) / seconds
    missed = slo_ms is not None and (statistics["p99"] or math.inf) > slo_ms
    slow = achieved < REACHED * found["arrivals"] / found["span_s"]
    return {
        "rate": rate,
        "achieved_rate": achieved,
        "seconds": seconds,
        "latency_ms": statistics,
        "goodput_per_s": None if slo_ms is None else sum(ms <= slo_ms for ms in latencies) / seconds,
        "samples": found["samples"],
        "saturated": bool(missed or slow or found["unfinished"]),
        "arrivals": found["arrivals"],
        "errors": found["unfinished"],
    }


def _scenario(contestant: Contestant, name: str, start: dict[str, Any] | None = None) -> dict[str, Any]:
    """The contestant's record of a scenario; a new one with the fields `start` where there is none yet."""
    scenarios: list[dict[str, Any]] = contestant.record["scenarios"]
    found = next((s for s in scenarios if s["scenario"] == name), None)
    if found is None:
        found = {"scenario": name, **(start or {})}
        scenarios.append(found)
    return found


RUN: dict[str, Callable[[Measurement], None]] = {
    "single-stream": single_stream,
    "server": server,
    "offline": offline,
}
