"""Carries out the benchmark's commands on one contestant. All times are measured here, around scoring only."""

import importlib
import importlib.metadata
import importlib.util
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmexport.bench.worker.channel import Channel
from rmexport.bench.worker.open_loop import Arrival, Policy, Served, WallClock, poisson_arrivals, send, serve
from rmexport.bench.worker.scorer import LoadOptions, Request, Scorer, Scores

MOST_WINDOWS = 5
AGREEMENT = 0.10  # the p50 of two successive windows agree when they differ by less than this share

Reply = dict[str, Any]


def serve_commands(channel: Channel, file: Path) -> None:
    """Answer commands with the peer module in `file`, until the benchmark closes its end; errors are replies too."""
    contestant = Contestant(load_module(file))
    for command in channel.read():
        try:
            reply = contestant.answer(command)
        except Exception as error:  # an engine may raise anything; the benchmark reports it and goes on
            reply = {"error": f"{type(error).__name__}: {error}"}
        channel.write(reply)


def load_module(file: Path) -> Any:
    """The peer module in `file`, imported.

    >>> _ = Path("mine.py").write_text('NAME = "mine"')
    >>> load_module(Path("mine.py")).NAME
    'mine'
    """
    spec = importlib.util.spec_from_file_location(f"rmexport_bench_peer_{file.stem}", file)
    assert spec is not None and spec.loader is not None  # the benchmark has seen the file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Contestant:
    """One peer module and, after `load`, its scorer."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self._requests: list[Request] = []
        self._scorer: Scorer

    def answer(self, command: Mapping[str, Any]) -> Reply:
        """The reply to one command."""
        commands: dict[str, Callable[..., Reply]] = {
            "hello": self._hello,
            "prepare": self._prepare,
            "load": self._load,
            "workload": self._workload,
            "single": self._single,
            "warm_up": self._warm_up,
            "offline": self._offline,
            "server": self._server,
        }
        return commands[command["do"]](**command["with"])

    def _hello(self) -> Reply:
        missing = [name for name in self._module.PACKAGES if not is_installed(name)]
        found = {name: version for name in self._module.DISTRIBUTIONS if (version := version_of(name))}
        converts = hasattr(self._module, "prepare")
        return {"missing": missing, "versions": found, "python": platform.python_version(), "converts": converts}

    def _prepare(self, folder: str, options: Mapping[str, Any]) -> Reply:
        """Convert the checkpoint, for peers that need it; reported apart from the time to load."""
        begin = time.perf_counter()
        converted = self._module.prepare(folder, LoadOptions(**options))
        return {"folder": converted, "seconds": time.perf_counter() - begin}

    def _load(self, folder: str, dtype: str, threads: int, options: Mapping[str, Any]) -> Reply:
        begin = time.perf_counter()
        self._scorer = self._module.load(folder, dtype, threads, LoadOptions(**options))
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "precision": self._scorer.precision, "settings": self._scorer.settings}

    def _workload(self, requests: Sequence[Mapping[str, Any]]) -> Reply:
        self._requests = [Request(r["sequences"], r["records"]) for r in requests]
        return {}

    def _single(self, order: Sequence[int], limit_s: float) -> Reply:
        """One request at a time, each timed; stops early once `limit_s` seconds have passed."""
        begin, latencies, splits = time.perf_counter(), [], []
        for i in order:
            self._scorer.reset()
            seconds, scores = self._timed([i])
            latencies.append(seconds * 1e3)
            splits.append(scores.split)
            if time.perf_counter() - begin > limit_s:
                break
        return {"latency_ms": latencies, "split_ms": joined_splits(splits)}

    def _warm_up(self, order: Sequence[int], window: int, limit_s: float) -> Reply:
        """Score the same `window` requests until the p50 of two successive windows agree within 10 %.

        At most five windows; none begins after `limit_s` seconds.
        """
        begin, middles = time.perf_counter(), []
        chosen = [order[i * len(order) // window] for i in range(window)]  # spread over the workload
        for _ in range(MOST_WINDOWS):
            middles.append(statistics.median(self._timed([i])[0] for i in chosen))
            if settled(middles) or time.perf_counter() - begin > limit_s:
                break
        return {"p50_ms": [m * 1e3 for m in middles], "settled": settled(middles)}

    def _offline(self) -> Reply:
        """Score all requests at once; a score that is not finite is None in the reply."""
        self._scorer.reset()
        seconds, scores = self._timed(range(len(self._requests)))
        return {
            "seconds": seconds,
            "scores": [value if math.isfinite(value) else None for value in scores.values],
            "computed": scores.computed,
            "padded": scores.padded,
            "split_s": scores.split,
        }

    def _server(self, rate: float, duration_s: float, drain_s: float, seed: int) -> Reply:
        arrivals = poisson_arrivals(rate, duration_s, len(self._requests), seed)
        served = self._served(arrivals, duration_s + drain_s)
        return {
            "arrivals": len(arrivals),
            "span_s": max(duration_s if len(arrivals) < 2 else arrivals[-1].at, 1e-9),
            "samples": served.samples,
            "unfinished": served.unfinished,
            "last_pass_s": served.last_pass_s,
        }

    def _served(self, arrivals: Sequence[Arrival], stop_s: float) -> Served:
        answer = getattr(self._scorer, "answer", None)
        if answer is not None:
            return send(arrivals, lambda number: answer(self._requests[number]), stop_s, WallClock())
        weights = [self._scorer.weight(request) for request in self._requests]
        return serve(arrivals, self._fresh, Policy(weights, self._scorer.budget, stop_s), WallClock())

    def _fresh(self, numbers: Sequence[int]) -> None:
        self._scorer.reset()
        self._timed(numbers)

    def _timed(self, numbers: Sequence[int]) -> tuple[float, Scores]:
        requests = [self._requests[i] for i in numbers]
        begin = time.perf_counter()
        scores = self._scorer.score(requests)
        return time.perf_counter() - begin, scores


def settled(middles: Sequence[float]) -> bool:
    """Whether the last two of the windows' p50 agree within 10 %.

    >>> settled([1.0]), settled([1.5, 1.0, 1.05])
    (False, True)
    """
    return len(middles) > 1 and abs(middles[-1] - middles[-2]) <= AGREEMENT * middles[-2]


def joined_splits(splits: Sequence[Mapping[str, float] | None]) -> dict[str, list[float]] | None:
    """The milliseconds of every part of the time, one per request, from seconds; None where no request has parts.

    >>> joined_splits([{"engine": 0.5}, {"engine": 0.25}])
    {'engine': [500.0, 250.0]}
    """
    known = [split for split in splits if split is not None]
    if not known:
        return None
    return {part: [split[part] * 1e3 for split in known] for part in known[0]}


def is_installed(name: str) -> bool:
    """Whether the module `name` can be imported; a dotted name imports its parents.

    >>> is_installed("json"), is_installed("no_such_package.module")
    (True, False)
    """
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution; None where it is not installed.

    >>> version_of("no-such-distribution") is None
    True
    """
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
