"""Computes what waits in a `RequestQueue`: one thread keeps the engine busy, another does everything else.

Whenever the engine is free, and it is the queue's turn, the engine's thread takes the next passes of what waits. The
other packs them before, where enough waits, ends what is too late, and hands out results, so that callers' callbacks
never delay the engine.
"""

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np

from rmruntime.batching.pass_composer import PackedPass, Part, PassComposer, Plan, fail
from rmruntime.batching.request_queue import QueuedRequest, RequestQueue, settle
from rmruntime.batching.runner import BatchRunner, BegunPass, Statistics
from rmruntime.executors import PassExecutor
from rmruntime.executors.base import closed_error
from rmruntime.scores import Outcome, Scored

THREAD_NAME = "rmruntime-queue"
ENGINE_THREAD_NAME = "rmruntime-engine"


@dataclass(frozen=True)
class _Computing:
    parts: Sequence[Part]
    begun: BegunPass


@dataclass(frozen=True, kw_only=True)
class QueueSteps:
    """What a worker leaves to others: `plan` passes of a number of tokens, have `runner` pack and compute them, `check`
    that the weights are still those that were loaded, wait for a `turn` of the engine, and make the `result` of a
    request that was computed.
    """

    plan: Plan
    runner: BatchRunner
    check: Callable[[], None]
    turn: Callable[[], AbstractContextManager[None]]
    result: Callable[[QueuedRequest], Scored | Outcome | BaseException]


class QueueWorker:
    """The two threads, which begin here and end with `stop`, with `finish`, or with the interpreter."""

    def __init__(self, queue: RequestQueue, executor: PassExecutor, steps: QueueSteps) -> None:
        self._queue, self._executor, self._steps = queue, executor, steps
        self._runner = steps.runner
        self._changed = queue.changed
        self._composer = PassComposer(queue, executor, self._runner, steps.plan)
        self._computing, self._computed = 0, deque[_Computing]()
        self._stopping = self._finishing = False
        self._process = os.getpid()
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            for work, name in ((self._feed_engine, ENGINE_THREAD_NAME), (self._serve, THREAD_NAME))
        ]
        atexit.register(self._stop_at_exit)
        for thread in self._threads:
            thread.start()

    @property
    def statistics(self) -> Statistics:
        """All passes so far."""
        return self._runner.statistics

    def stop(self) -> None:
        """Fail what has not begun, and wait for what has. Not from a callback of a future: it would wait for itself."""
        self._end()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    @property
    def is_here(self) -> bool:
        """Whether this is called on one of its threads, from a callback of a future."""
        return threading.current_thread() in self._threads

    def finish(self) -> None:
        """End once everything that was submitted is done; returns at once."""
        if os.getpid() == self._process:
            with self._changed:
                self._finishing = True
                self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._queue.fail_waiting(closed_error())

    def _stop_at_exit(self) -> None:
        """Engines do not outlive the interpreter; a callback that never returns must not keep it."""
        if os.getpid() == self._process:
            self._end()
            self._threads[0].join()

    def _guarded(self, work: Callable[[], None]) -> None:
        """An error outside of passes is a bug; nobody must wait for what then never comes."""
        try:
            work()
        except BaseException as error:
            self._queue.refuse(f"the threads of the queue ended with {type(error).__name__}: {error}; load it again")
            self._end()
            raise
        finally:
            atexit.unregister(self._stop_at_exit)

    # The engine's thread.

    def _feed_engine(self) -> None:
        while self._engine_is_wanted():
            with self._steps.turn():
                wave = self._composer.next_wave()
                if wave:
                    self._begin(wave)

    def _engine_is_wanted(self) -> bool:
        """Wait until there is something to compute and the executor is not busy; False at the end."""
        with self._changed:
            while not self._ended():
                if (self._queue.tokens or self._composer.has_passes) and self._computing <= self._executor.ahead:
                    return True
                self._changed.wait()
        return False

    def _ended(self) -> bool:
        return self._stopping or (self._finishing and not self._queue.unfinished)

    def _begin(self, wave: Sequence[PackedPass]) -> None:
        with self._changed:
            self._computing += 1
            self._changed.notify_all()  # the next may be packed
        try:
            self._steps.check()
            begun = self._runner.begin([packed.prepared for packed in wave])
        except Exception as error:  # of any type: it is the requests' to raise
            with self._changed:
                self._computing -= 1
            for packed in wave:
                fail(packed.parts, error)
            return
        left = [_Computing(packed.parts, one) for packed, one in zip(wave, begun, strict=True)]
        for one in list(left):
            one.begun.future.add_done_callback(lambda _, one=one: self._is_computed(one, left))  # type: ignore[misc]

    def _is_computed(self, one: _Computing, left: list[_Computing]) -> None:
        with self._changed:
            self._computed.append(one)
            left.remove(one)
            if not left:
                self._computing -= 1
            self._changed.notify_all()

    # The other thread.

    def _serve(self) -> None:
        while (step := self._next_step()) is not None:
            step()
        self._queue.fail_unfinished(closed_error())  # requests of several passes may have begun

    def _next_step(self) -> Callable[[], None] | None:
        """Wait until there is one; None at the end."""
        with self._changed:
            while True:
                due = self._queue.seconds_to_deadline()
                if due == 0:
                    return self._queue.expire
                if self._computing and self._composer.can_pack:
                    return self._composer.pack_ahead
                if self._computed:
                    return self._hand_out
                if self._ended() and not self._computing:
                    return None
                self._changed.wait(due)

    def _hand_out(self) -> None:
        one = self._computed.popleft()
        try:
            outcomes, _ = self._runner.finish(one.begun)
            self._steps.check()
        except Exception as error:  # of any type: it is the requests' to raise
            fail(one.parts, error)
            return
        self._count(one)
        for (item, place), outcome in zip(one.parts, outcomes, strict=True):
            item.outcomes[place] = outcome
            if len(item.outcomes) == len(item.sequences):
                settle(item.future, self._steps.result(item))

    def _count(self, one: _Computing) -> None:
        """Each request's share of a pass."""
        brought = _brought(one)
        for item, place in one.parts:
            found, length = item.future.statistics, len(item.sequences[place].ids)
            computed, cached = brought[item, place]
            own = Statistics(sequences=1, given=length, computed=computed, cached=cached)
            item.future.statistics = found + own
        for item in {item for item, _ in one.parts}:
            item.future.statistics = replace(item.future.statistics, passes=item.future.statistics.passes + 1)


def _brought(one: _Computing) -> dict[Part, tuple[int, int]]:
    """The tokens of each part that no part before it had: how many were computed, and how many cached."""
    trie, past = one.begun.trie, one.begun.past
    if trie is None:
        return {(item, place): (len(item.sequences[place].ids), 0) for item, place in one.parts}
    owners = np.empty(trie.tokens, np.int64)
    for number in reversed(range(len(trie.paths))):
        owners[trie.paths[number]] = number
    owned = np.bincount(owners, minlength=len(trie.paths))
    of_computed = owners if past is None else owners[past.placement.computed]
    computed = np.bincount(of_computed, minlength=len(trie.paths))
    return dict(zip(one.parts, zip(computed.tolist(), (owned - computed).tolist(), strict=True), strict=True))
