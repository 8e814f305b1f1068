"""Groups of stages that are loaded together, how stages are split into groups, and the job that goes through them."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rmruntime.backends.base import Backend, BackendModule, Feeds, KeyMemory, Outputs, key_memory_of
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_names import HIDDEN_IN, HIDDEN_OUT
from rmruntime.bundle.manifest import Graph, Stage
from rmruntime.errors import BackendError
from rmruntime.options import EngineOptions


@dataclass(frozen=True, kw_only=True)
class StageSource:
    """Where stages come from: the backend and the graph of a bundle."""

    bundle: Bundle
    module: BackendModule
    graph: Graph

    def load(self, stages: Sequence[Stage], options: EngineOptions) -> "StageGroup":
        """The stages' engines on one device. Raises as `BackendModule.load` does; what was loaded is then freed."""
        engines: list[Backend] = []
        try:
            for stage in stages:
                engines.append(self.module.load(self.bundle, self.graph.of_stage(stage), options))
        except BaseException:
            for engine in engines:
                engine.close()
            raise
        return StageGroup(engines)


class StageGroup:
    """Consecutive stages on one device."""

    def __init__(self, engines: Sequence[Backend]) -> None:
        self._engines = engines

    @property
    def engine(self) -> Backend:
        """The last stage's engine; name and precision are the same for all."""
        return self._engines[-1]

    @property
    def key_memories(self) -> list[KeyMemory]:
        """Of the engines that keep keys and values on their device."""
        return [memory for engine in self._engines for memory in key_memory_of(engine)]

    @property
    def batch_tokens(self) -> int:
        """The recommended number of tokens in a pass."""
        return min(engine.batch_tokens for engine in self._engines)

    def run(self, feeds: Feeds, state: Outputs | None) -> Outputs:
        """The outputs of the last stage; `state` is the output of the stage before the group, None if it has none.

        Keys and values for a prefix cache are passed on.
        """
        for engine in self._engines:
            given = feeds if state is None else {**feeds, HIDDEN_IN: state[HIDDEN_OUT]}
            state = {**_kept(state), **engine.run(given)}
        assert state is not None  # there is an engine
        return state

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


def _kept(state: Outputs | None) -> dict[str, Any]:
    """All that a stage gave but its hidden states, which only the next one reads."""
    return {name: value for name, value in (state or {}).items() if name != HIDDEN_OUT}


def stages_of(graph: Graph) -> tuple[Stage, ...]:
    """The graph's stages. Raises BackendError where there are none.

    >>> stages_of(Graph(file="model.onnx", dialect="ort-cpu", compute_dtype="fp32"))
    Traceback (most recent call last):
    rmruntime.errors.BackendError: the bundle has no stages of model.onnx, which several devices or a stage memory ...
    """
    if not graph.stages:
        raise BackendError(
            f"the bundle has no stages of {graph.file}, which several devices or a stage memory need: export it again "
            "with `rmexport export --stages N` (decoders only; encoders have no stages), or leave these options out"
        )
    return graph.stages


def split_by_device(stages: Sequence[Stage], devices: int) -> list[tuple[Stage, ...]]:
    """The stages of each device, in order, so that the largest number of layers is least; then the largest of bytes.

    Dynamic programming over where the last device's stages begin. Raises BackendError for fewer stages than devices.

    >>> stages = [Stage(file="s.onnx", first=i, last=i, weight_bytes=10, ranges=()) for i in range(4)]
    >>> [len(group) for group in split_by_device(stages, 2)]
    [2, 2]
    """
    if devices > len(stages):
        raise BackendError(
            f"{devices} devices were given for {len(stages)} stages: give fewer, or export the bundle again with "
            f"`--stages {devices}`"
        )
    best: dict[int, tuple[tuple[int, int], tuple[int, ...]]] = {0: ((0, 0), ())}
    for taken in range(1, devices + 1):
        best = {
            end: min(
                (max(cost, _load(stages[begin:end])), (*cuts, begin))
                for begin, (cost, cuts) in best.items()
                if begin < end
            )
            for end in range(taken, len(stages) - devices + taken + 1)
        }
    cuts = best[len(stages)][1]
    return [tuple(stages[begin:end]) for begin, end in pairwise((*cuts, len(stages)))]


def _load(stages: Sequence[Stage]) -> tuple[int, int]:
    """How many layers the stages have, and how many bytes of weights."""
    return sum(s.last - s.first + 1 for s in stages), sum(s.weight_bytes for s in stages)


def split_by_memory(stages: Sequence[Stage], limit: int) -> list[tuple[Stage, ...]]:
    """Groups of consecutive stages of at most `limit` bytes of weights each, or of a single larger stage.

    >>> stages = [Stage(file="s.onnx", first=i, last=i, weight_bytes=10, ranges=()) for i in range(5)]
    >>> [len(group) for group in split_by_memory(stages, 25)]
    [2, 2, 1]
    """
    groups: list[list[Stage]] = []
    room = 0
    for stage in stages:
        if not groups or stage.weight_bytes > room:
            groups.append([])
            room = limit
        groups[-1].append(stage)
        room -= stage.weight_bytes
    return [tuple(group) for group in groups]


@dataclass
class Job:
    """A pass that goes through groups of stages. `state` is the output of the stages so far; a failed job frees it."""

    feeds: Feeds
    state: Outputs | None = None
    future: Future[Outputs] = field(default_factory=Future)

    def advance(self, group: StageGroup) -> None:
        """Run the pass through the stages of `group`, unless it has failed."""
        if self.future.done():
            return
        try:
            self.state = group.run(self.feeds, self.state)
        except Exception as error:  # of any type: the future raises it
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the job with an error, unless it has ended."""
        if not self.future.done():
            self.feeds, self.state = {}, None
            self.future.set_exception(error)

    def finish(self) -> None:
        """End the job with the last stage's output, unless it has failed."""
        if not self.future.done():
            assert self.state is not None  # some stage ran
            self.future.set_result(self.state)
