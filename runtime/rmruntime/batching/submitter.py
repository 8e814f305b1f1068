"""Takes records of concurrent callers, whose passes are shared: `RewardModel.submit`, `ascore`, `drain`."""

import math
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rmruntime.batching.queue_worker import QueueSteps, QueueWorker
from rmruntime.batching.request_queue import OutcomeFuture, QueuedRequest, RequestQueue, ScoreFuture, settle
from rmruntime.batching.runner import Statistics
from rmruntime.batching.scoring_loop import Encoded, ScoringLoop
from rmruntime.errors import InputError, RewardModelError
from rmruntime.executors.base import closed_error
from rmruntime.option_checks import Limit, check_value
from rmruntime.options import ScoreOptions
from rmruntime.records import Request, parse_record
from rmruntime.records.requests import identity_of
from rmruntime.scores import Outcome, Scored
from rmruntime.sequences import TokenSequence

QUEUE_TOKENS = 1 << 20  # that wait: ten thousand conversations of a hundred tokens, and 8 MB
ENCODE_THREADS = 4  # that tokenize for event loops
THREAD_NAME = "rmruntime-submit"
_SECONDS = Limit(-math.inf, math.inf, "a number of seconds from now")

Encode = Callable[[Sequence[Request], ScoreOptions], Encoded]
Result = Callable[[Request, Sequence[tuple[TokenSequence, Outcome]], ScoreOptions], Scored | InputError]


class Submitter:
    """One model's queue, and its threads, which begin with the first request. Safe from many threads."""

    def __init__(self, loop: ScoringLoop, encode: Encode, result: Result, queue_tokens: int = QUEUE_TOKENS) -> None:
        self._queue = RequestQueue(queue_tokens)
        self._loop, self._encode, self._result = loop, encode, result
        self._lock = threading.Lock()
        self._worker: QueueWorker | None = None
        self._encoders: ThreadPoolExecutor | None = None
        self._closed, self._process = False, os.getpid()

    @property
    def statistics(self) -> Statistics:
        """All passes of submitted requests so far."""
        return self._worker.statistics if self._worker else Statistics()

    @property
    def waiting_tokens(self) -> int:
        """Of the requests that have not begun."""
        return self._queue.tokens

    @property
    def limit(self) -> int:
        """The most tokens that may wait."""
        return self._queue.limit

    def submit(self, record: Mapping[str, Any] | Request, options: ScoreOptions, deadline: float | None) -> ScoreFuture:
        """Tokenize a record, here, and have it wait for the engine. Raises QueueFull, and what `submit_later` does."""
        expires, future = self._admit(options, deadline), ScoreFuture()
        self._enqueue(future, record, options, expires)
        return future

    def submit_later(
        self, record: Mapping[str, Any] | Request, options: ScoreOptions, deadline: float | None
    ) -> ScoreFuture:
        """The same on a thread, for callers who must not wait for the tokenizer.

        A QueueFull that is found only then is the future's. Raises OptionError for what is no deadline,
        RewardModelError where no more requests are taken.
        """
        expires, future = self._admit(options, deadline), ScoreFuture()
        self._on_a_thread(self._enqueue_later, future, record, options, expires)
        return future

    def submit_sequences(self, wanted: Sequence[tuple[TokenSequence, ScoreOptions]]) -> list[OutcomeFuture]:
        """Have sequences wait for the engine together; blocks where the queue is full until it is not.

        Raises as `check` does.
        """
        self.check()
        items = [
            QueuedRequest(request=None, options=options, sequences=(sequence,), future=OutcomeFuture())
            for sequence, options in wanted
        ]
        self._start()
        self._queue.put_together(items)
        return [item.future for item in items]  # type: ignore[misc] # they were made here

    def check(self) -> None:
        """Raises RewardModelError where no more requests are taken, and in a callback, which would wait for itself."""
        self._check_process()
        self._queue.check_open()
        if self._worker is not None and self._worker.is_here:
            raise RewardModelError(
                "this is a callback of a future: whoever waits for the engine here waits for the thread that it is on; "
                "do it on another thread"
            )

    def drain(self, timeout: float | None) -> bool:
        """Take no more requests, and wait until those that were taken are done; False where `timeout` passes before."""
        self._queue.refuse("this RewardModel takes no more requests: it is being drained")
        return self._queue.join(timeout)

    def close(self) -> None:
        """Fail what waits, and wait for the pass that is running."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            worker, encoders = self._worker, self._encoders
        self._queue.refuse(str(closed_error()))
        if encoders is not None:
            encoders.shutdown(wait=False)  # what is at hand there ends in the error that was just set
        if worker is not None:
            worker.stop()

    def _admit(self, options: ScoreOptions, deadline: float | None) -> float:
        """When a request that comes now expires, by the queue's clock."""
        check_value("options", options, ScoreOptions)
        check_value("deadline", deadline, float | None, _SECONDS)
        self._check_process()
        self._queue.check()
        return math.inf if deadline is None else self._queue.clock() + deadline

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RewardModelError(
                f"this RewardModel was loaded in process {self._process}, and this one is its fork {os.getpid()}: "
                "engines do not survive that; load the bundle after forking, or start processes by spawn"
            )

    def _enqueue_later(self, future: ScoreFuture, *given: Any) -> None:
        if future.cancelled():
            return
        try:
            self._enqueue(future, *given)
        except BaseException as error:  # of any type: it is the future's to raise
            settle(future, error)

    def _enqueue(
        self, future: ScoreFuture, record: Mapping[str, Any] | Request, options: ScoreOptions, expires: float
    ) -> None:
        try:
            request = record if isinstance(record, Request) else parse_record(record)
            [found] = self._encode([request], options)
            if isinstance(found, InputError):
                raise found
        except InputError as error:
            error.record_id = record.id if isinstance(record, Request) else identity_of(record)
            settle(future, error)
            return
        item = QueuedRequest(request=request, options=options, sequences=found, future=future, expires=expires)
        if not found:  # there is nothing to compute
            settle(future, _scored(self._result, item))
            return
        self._start()
        self._queue.put(item)

    def _start(self) -> None:
        with self._lock:
            if self._worker is not None or self._closed:
                return
            result, turns = self._result, self._loop.turns
            steps = QueueSteps(
                plan=self._loop.plan,
                runner=self._loop.runner(turns.of_requests),
                check=self._loop.bundle.check_unchanged,
                turn=turns.of_requests,
                result=lambda item: _scored(result, item),  # without this object, which may be gone before its requests
            )
            self._worker = QueueWorker(self._queue, self._loop.executor, steps)
            weakref.finalize(self, self._worker.finish).atexit = False

    def _on_a_thread(self, work: Callable[..., None], *given: Any) -> None:
        with self._lock:
            if self._closed:
                raise closed_error()
            if self._encoders is None:
                self._encoders = ThreadPoolExecutor(ENCODE_THREADS, thread_name_prefix=THREAD_NAME)
            self._encoders.submit(work, *given)


def _scored(result: Result, item: QueuedRequest) -> Scored | Outcome | BaseException:
    """A computed request's score, or why there is none; of a lone sequence the outcome."""
    if item.request is None:
        return item.outcomes[0]
    computed = [(sequence, item.outcomes[place]) for place, sequence in enumerate(item.sequences)]
    try:
        found = result(item.request, computed, item.options)
    except Exception as error:  # of any type: it is the future's to raise
        return error
    if isinstance(found, InputError):
        found.record_id = item.request.id
    return found
