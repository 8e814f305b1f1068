"""Stages in turn on one device, each for many passes: runs a model larger than the memory, at the disk's speed."""

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from rmruntime.backends import choose_engine
from rmruntime.backends.base import BackendModule, Feeds, Outputs
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph, Stage
from rmruntime.devices.host_memory import UNLIMITED, available_memory, stage_share
from rmruntime.errors import BackendError, DeviceMemoryError
from rmruntime.executors.base import DirectExecutor, PassExecutor, closed_error
from rmruntime.executors.stage_group import Job, StageSource, split_by_memory, stages_of
from rmruntime.executors.stage_loader import StageLoader
from rmruntime.options import EngineOptions

HIDDEN_SHARE = 0.25  # hidden states of a wave may take this share of the stage memory, in addition to it
STREAM_BYTES = 4  # bytes per number of the hidden states
THREAD_NAME = "rmruntime-stages"


def load_streaming(bundle: Bundle, options: EngineOptions) -> PassExecutor:
    """The bundle's stages in turn, with at most `options.stage_memory` bytes of weights loaded at a time.

    Where all weights are within that, the whole graph is loaded once. Raises DeviceMemoryError for a stage that is
    larger, and what choosing an engine and loading a stage raise.
    """
    if options.devices[1:]:
        raise BackendError(
            f"device {options.device!r}: stages run in turn on one device, or side by side on several; name one device "
            "or leave the stage memory out"
        )
    choice = choose_engine(bundle, options, staged=True)
    module, graph = choice.module, choice.graph
    limit = _limit(module, options)
    if bundle.manifest.weight_bytes(graph) <= limit:
        return DirectExecutor(module.load(bundle, graph, options.unstaged()), choice.reason)
    groups, ahead = _groups(stages_of(graph), limit)
    source = StageSource(bundle=bundle, module=module, graph=graph)
    tokens = int(HIDDEN_SHARE * limit / (STREAM_BYTES * bundle.manifest.backbone.hidden_size))
    forget = bundle.manifest.weight_bytes(graph) > available_memory()
    loader = StageLoader(source, groups, options, ahead=ahead, forget=forget)
    return StreamingExecutor(loader, graph, len(groups), tokens, choice.reason)


def _limit(module: BackendModule, options: EngineOptions) -> int:
    """Bytes of weights that may be loaded. Raises BackendError for "auto" where the available memory is not known."""
    if isinstance(options.stage_memory, int):
        return options.stage_memory
    available = UNLIMITED if module.HAS_INDEX else available_memory()
    if available == UNLIMITED:
        raise BackendError(
            f"stage memory 'auto': the memory that {module.NAME} has here is not known; give a size, such as 6GB"
        )
    return stage_share(available)


def _groups(stages: Sequence[Stage], limit: int) -> tuple[list[tuple[Stage, ...]], bool]:
    """The groups of stages to load together, and whether two fit at a time, one computing and one loading."""
    largest = max(stages, key=lambda stage: stage.weight_bytes)
    if largest.weight_bytes > limit:
        raise DeviceMemoryError(
            f"the stage of layers {largest.first} to {largest.last} has {largest.weight_bytes / 1e9:.3f} GB of "
            f"weights, {(largest.weight_bytes - limit) / 1e9:.3f} GB more than the stage memory of {limit / 1e9:.3f} "
            f"GB: raise it, or export the bundle again with more stages than {len(stages)} (--stages)"
        )
    ahead = largest.weight_bytes <= limit // 2
    return split_by_memory(stages, limit // 2 if ahead else limit), ahead


class StreamingExecutor(PassExecutor):
    """A thread that takes the passes of a submission (a wave) together through one group of stages after another."""

    ahead = 1

    def __init__(self, loader: StageLoader, graph: Graph, groups: int, wave_tokens: int, reason: str = "") -> None:
        """`wave_tokens`: the number of tokens whose hidden states fit in memory."""
        try:
            first = loader.first()
        except BaseException:
            loader.close()
            raise
        self._loader = loader
        self.name = f"{first.engine.name} in {groups} stages in turn"
        self.precision, self.graph, self.reason = first.engine.precision, graph, reason
        self.batch_tokens = min(first.batch_tokens, max(1, wave_tokens))
        self.wave_tokens = wave_tokens
        self._queue: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        self._lock, self._closed = threading.Lock(), False
        self._thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def submit(self, passes: Sequence[Feeds]) -> Sequence[Future[Outputs]]:
        jobs = [Job(feeds) for feeds in passes]
        with self._lock:
            if self._closed:
                raise closed_error()
            self._queue.put(jobs)
        return [job.future for job in jobs]

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._loader.close()

    def _work(self) -> None:
        while (jobs := self._queue.get()) is not None:
            if self._closed:
                _fail(jobs, closed_error())
                continue
            try:
                self._wave(jobs)
            except Exception as error:  # of any type: a group that does not load fails all of them
                _fail(jobs, error)

    def _wave(self, jobs: Sequence[Job]) -> None:
        for group in self._loader.groups():
            for job in jobs:
                if self._closed:
                    _fail(jobs, closed_error())
                    return
                job.advance(group)
        for job in jobs:
            job.finish()


def _fail(jobs: Sequence[Job], error: BaseException) -> None:
    for job in jobs:
        job.fail(error)
