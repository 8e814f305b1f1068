"""Passes in flight: devices work side by side, errors stay with their own pass, closing waits for what runs."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rmruntime import BackendError, RewardModelError
from rmruntime.bundle.manifest import Graph, Stage, WeightRange
from rmruntime.executors import DirectExecutor, PassExecutor
from rmruntime.executors.pipeline import PipelineExecutor
from rmruntime.executors.stage_group import StageGroup
from rmruntime.executors.stage_loader import StageLoader, forget_cached, read_ahead
from rmruntime.executors.streaming import StreamingExecutor

GRAPH = Graph(file="g.onnx", dialect="d", compute_dtype="fp32")
WAIT = 20.0  # seconds, far more than is needed


class Adding:
    """A stage that adds 1; it fails on the passes in `fails`, and waits at `gate` where it has one."""

    name, precision, graph, batch_tokens = "adding", "fp32", GRAPH, 100

    def __init__(self, fails: Sequence[int] = (), gate: threading.Barrier | None = None) -> None:
        self.fails, self.gate, self.closed, self.seen = fails, gate, False, [0]

    def run(self, feeds: Any) -> Any:
        assert not self.closed
        if self.gate is not None:
            self.gate.wait(WAIT)
        if feeds["number"] in self.fails:
            raise BackendError(f"no {feeds['number']}")
        self.seen.append(feeds["number"])
        return {"hidden_out": feeds.get("hidden_in", 10 * feeds["number"]) + 1}

    def close(self) -> None:
        self.closed = True


def outcomes(futures: Sequence[Future[Any]]) -> list[Any]:
    """The values, and the messages of errors."""
    for future in futures:
        future.exception(WAIT)
    return [str(f.exception()) if f.exception() else f.result()["hidden_out"] for f in futures]


def pipeline(*stages: Adding) -> PipelineExecutor:
    return PipelineExecutor([StageGroup([stage]) for stage in stages], GRAPH)


class Source:
    """Gives stages by their number; `broken` numbers do not load, once each."""

    def __init__(self, broken: Sequence[int] = ()) -> None:
        self.broken, self.loaded = list(broken), []
        self.bundle = SimpleNamespace(folder=Path("/"))

    def load(self, stages: Sequence[Any], options: Any) -> StageGroup:
        assert len([one for one in self.loaded if not one.closed]) < 2, "one computes, one loads"
        number = stages[0].number
        if number in self.broken:
            self.broken.remove(number)
            raise BackendError(f"stage {number} does not load")
        self.loaded.append(Adding(stages[0].fails))
        return StageGroup([self.loaded[-1]])


def in_turn(source: Any, *fails: Sequence[int], ahead: bool = True) -> StreamingExecutor:
    groups: Any = [[SimpleNamespace(number=n, fails=f, ranges=())] for n, f in enumerate(fails)]
    options: Any = None
    return StreamingExecutor(StageLoader(source, groups, options, ahead=ahead, forget=True), GRAPH, len(groups), 1000)


def numbered(count: int) -> list[dict[str, int]]:
    return [{"number": number} for number in range(count)]


def test_devices_work_at_the_same_time() -> None:
    """The second stage's first pass ends only once the first stage is at its second."""
    gate = threading.Barrier(2)

    class SecondPass(Adding):
        def run(self, feeds: Any) -> Any:
            self.gate = gate if feeds["number"] == 1 else None
            return super().run(feeds)

    class FirstPass(Adding):
        def run(self, feeds: Any) -> Any:
            self.gate = gate if feeds["number"] == 0 else None
            return super().run(feeds)

    executor = pipeline(SecondPass(), FirstPass())
    assert outcomes(executor.submit(numbered(3))) == [2, 12, 22]
    executor.close()


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("kind", ["pipeline", "in turn"])
def test_an_error_stays_with_its_pass(kind: str, ahead: bool) -> None:
    executor: PassExecutor
    if kind == "pipeline":
        executor = pipeline(Adding(fails=[1]), Adding(fails=[1, 3]))
    else:
        executor = in_turn(Source(), [1], [1, 3], ahead=ahead)
    for _ in range(2):
        assert outcomes(executor.submit(numbered(5))) == [2, "no 1", 22, "no 3", 42]
    executor.close()


def test_a_stage_that_does_not_load_fails_the_wave_and_not_the_next() -> None:
    source = Source(broken=[1])
    executor = in_turn(source, [], [], [])
    assert outcomes(executor.submit(numbered(2))) == ["stage 1 does not load"] * 2
    assert outcomes(executor.submit(numbered(2))) == [3, 13]
    executor.close()
    assert all(one.closed for one in source.loaded)
    with pytest.raises(BackendError, match="stage 0 does not load"):
        in_turn(Source(broken=[0]), [], [])


def test_each_stage_is_loaded_once_a_wave() -> None:
    source = Source()
    executor = in_turn(source, [], [])
    for _ in range(3):
        outcomes(executor.submit(numbered(4)))
    executor.close()
    assert [len(one.seen) for one in source.loaded] in ([5] * 6, [5] * 6 + [1])  # the last: the next wave's first
    assert all(one.closed for one in source.loaded)


@pytest.mark.parametrize("kind", ["direct", "pipeline", "in turn"])
def test_nothing_is_taken_once_closed(kind: str) -> None:
    stage = Adding()
    executor = {
        "direct": lambda: DirectExecutor(stage),
        "pipeline": lambda: pipeline(stage, Adding()),
        "in turn": lambda: in_turn(Source(), [], []),
    }[kind]()
    executor.close()
    executor.close()
    with pytest.raises(RewardModelError, match="closed"):
        executor.submit(numbered(1))
    assert stage.closed or kind == "in turn"


def test_closing_waits_for_what_runs_and_cancels_what_waits() -> None:
    gate = threading.Barrier(2)
    stage = Adding(gate=gate)
    executor = pipeline(stage)
    futures = executor.submit(numbered(3))
    closing = threading.Thread(target=executor.close)
    while executor._queues[0].qsize() == 3:  # until the first pass runs
        pass
    closing.start()
    assert "closed" in str(futures[2].exception(WAIT))
    assert not stage.closed
    gate.wait(WAIT)
    closing.join(WAIT)
    assert stage.closed and outcomes(futures)[0] == 1


def test_closing_loads_no_more_stages() -> None:
    source, gate = Source(), threading.Barrier(2)
    executor = in_turn(source, [], [], [], [], [])
    source.loaded[0].gate = gate
    futures = executor.submit(numbered(2))
    while not gate.n_waiting:  # until the first pass is in the first stage
        pass
    closing = threading.Thread(target=executor.close)
    closing.start()
    while not executor._closed:
        pass
    gate.wait(WAIT)
    closing.join(WAIT)
    assert all("closed" in str(future.exception(WAIT)) for future in futures)
    assert len(source.loaded) <= 2 and all(one.closed for one in source.loaded)


def test_reading_ahead_ends_where_the_file_does(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(100))
    stopped = threading.Event()
    for file, offset, nbytes in (("w", 10, 50), ("w", 90, 50), ("absent", 0, 5)):
        read_ahead(tmp_path, WeightRange(file=file, offset=offset, nbytes=nbytes), stopped)
    stage = Stage(file="", first=0, last=0, weight_bytes=1, ranges=(WeightRange(file="w", offset=0, nbytes=100),))
    forget_cached(tmp_path, [stage])
    forget_cached(tmp_path / "absent", [stage])
    stopped.set()
    read_ahead(tmp_path, WeightRange(file="w", offset=0, nbytes=100), stopped)
