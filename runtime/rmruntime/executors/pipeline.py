"""Stages on several devices: while one computes the second stage of a pass, another computes the first of the next."""

import os
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

from rmruntime.backends import EngineChoice, choose_engine
from rmruntime.backends.base import Feeds, Outputs
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph
from rmruntime.devices.host_memory import available_memory
from rmruntime.errors import BackendError
from rmruntime.executors.base import PassExecutor, closed_error, page_pool_of
from rmruntime.executors.cached import cached_form, obstacle, with_cache, without_cache
from rmruntime.executors.stage_group import Job, StageGroup, StageSource, split_by_device, stages_of
from rmruntime.options import EngineOptions

THREAD_NAME = "rmruntime-stage"


_Jobs = queue.SimpleQueue[Job | None]  # None ends it


def load_pipeline(bundle: Bundle, options: EngineOptions) -> "PipelineExecutor":
    """The bundle's stages on the devices that `options` names, in their order.

    Raises BackendError where the devices have no engine in common, or there are fewer stages than devices, and what
    loading raises.
    """
    own = [replace(options, device=device) for device in options.devices]
    choice = _common_engine(bundle, own)
    form, free = cached_form(bundle, options, choice, staged=True), available_memory()
    module, graph = choice.module, form or choice.graph
    source, groups = StageSource(bundle=bundle, module=module, graph=graph), []
    try:
        for stages, one in zip(split_by_device(stages_of(graph), len(own)), own, strict=True):
            threads = options.threads or (0 if module.HAS_INDEX else _share_of_cores(len(own)))
            groups.append(source.load(stages, replace(one, threads=threads)))
    except BaseException:
        for group in groups:
            group.close()
        raise
    executor = PipelineExecutor(groups, graph, choice.reason)
    if form is None:
        return without_cache(executor, options, obstacle(bundle, choice))
    return with_cache(executor, options, choice, free)


def _common_engine(bundle: Bundle, own: Sequence[EngineOptions]) -> EngineChoice:
    """The one engine and graph of all devices: two graphs would need passes of different shapes."""
    chosen = {one.device: choose_engine(bundle, one, staged=True) for one in {one.device: one for one in own}.values()}
    if len({choice.graph.file for choice in chosen.values()}) > 1:
        found = ", ".join(f"{device} runs {choice.module.NAME}" for device, choice in chosen.items())
        raise BackendError(f"all stages must run on one engine: {found}; name it for every device")
    return chosen[own[0].device]


def _share_of_cores(devices: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // devices) if hasattr(os, "sched_getaffinity") else 0


class PipelineExecutor(PassExecutor):
    """One thread per device, which takes passes from the thread before."""

    def __init__(self, groups: Sequence[StageGroup], graph: Graph, reason: str = "") -> None:
        engine = groups[-1].engine
        self.name = f"{engine.name} in {len(groups)} stages"
        self.precision, self.graph, self.reason = engine.precision, graph, reason
        self.batch_tokens = min(group.batch_tokens for group in groups)
        self.ahead = len(groups)  # so that the first device always has a next pass waiting
        self.key_memories = [memory for group in groups for memory in group.key_memories]
        self.page_pool = page_pool_of(graph, self.key_memories)
        if self.page_pool is not None:  # the pages for a pass are those of all passes at a time
            self.batch_tokens = max(1, self.batch_tokens // (self.ahead + 1))
        self._groups = groups
        self._queues: list[_Jobs] = [queue.SimpleQueue() for _ in groups]
        self._lock, self._closed = threading.Lock(), False
        self._threads = [
            threading.Thread(target=self._work, args=(place,), name=f"{THREAD_NAME}-{place}", daemon=True)
            for place in range(len(groups))
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, passes: Sequence[Feeds]) -> Sequence[Future[Outputs]]:
        jobs = [Job(feeds) for feeds in passes]
        with self._lock:
            if self._closed:
                raise closed_error()
            for job in jobs:
                self._queues[0].put(job)
        return [job.future for job in jobs]

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            _cancel_waiting(self._queues[0])
            self._queues[0].put(None)
        for thread in self._threads:
            thread.join()
        for group in self._groups:
            group.close()

    def _work(self, place: int) -> None:
        """The thread of the device number `place`: run its stages for every job that comes, until None comes."""
        following = self._queues[place + 1] if place + 1 < len(self._queues) else None
        while (job := self._queues[place].get()) is not None:
            job.advance(self._groups[place])
            if following is None:
                job.finish()
            elif not job.future.done():
                following.put(job)
        if following is not None:
            following.put(None)


def _cancel_waiting(jobs: _Jobs) -> None:
    while True:
        try:
            job = jobs.get_nowait()
        except queue.Empty:
            return
        if job is not None:
            job.fail(closed_error())
