"""Stages of a graph that are loaded together, which of them go together, and a pass on its way through them."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from rmruntime.backends.base import Backend, BackendModule, Feeds, Outputs
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
        """One of them, which speaks for all."""
        return self._engines[-1]

    @property
    def batch_tokens(self) -> int:
        """How many tokens a pass had best compute."""
        return min(engine.batch_tokens for engine in self._engines)

    def run(self, feeds: Feeds, state: Outputs | None) -> Outputs:
        """What the last of them gives; `state` is what the stage before the first gave, None for the first of all.

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
    """The graph's stages. Raises BackendError where there are none."""
    if not graph.stages:
        raise BackendError(
            f"the bundle has no stages of {graph.file}, which several devices, or a stage memory, take: export it "
            "again with `rmexport export --stages N` (of a decoder; encoders have none)"
        )
    return graph.stages


def for_devices(stages: Sequence[Stage], devices: int) -> list[tuple[Stage, ...]]:
    """The stages of each device, in order: no device has more layers than it must, then no more bytes.

    Dynamic programming over where the last device's stages begin. Raises BackendError for fewer stages than devices.
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
    """Layers and bytes."""
    return sum(s.last - s.first + 1 for s in stages), sum(s.weight_bytes for s in stages)


def for_memory(stages: Sequence[Stage], limit: int) -> list[tuple[Stage, ...]]:
    """Consecutive stages that are loaded together: as few groups as `limit` bytes of weights each allow."""
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
    """`state` is what the stages so far gave. What it holds is let go where it fails."""

    feeds: Feeds
    state: Outputs | None = None
    future: Future[Outputs] = field(default_factory=Future)

    def advance(self, group: StageGroup) -> None:
        """Run it through some stages, unless it failed in an earlier one."""
        if self.future.done():
            return
        try:
            self.state = group.run(self.feeds, self.state)
        except Exception as error:  # of any type: it is the future's to raise
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End it, unless it has ended."""
        if not self.future.done():
            self.feeds, self.state = {}, None
            self.future.set_exception(error)

    def finish(self) -> None:
        """Give what the last stage gave, unless it failed."""
        if not self.future.done():
            assert self.state is not None  # some stage ran
            self.future.set_result(self.state)
