"""The records of one HTTP request on their way through the model's queue: put there, waited for, taken back."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor
from dataclasses import dataclass
from typing import Any

from rmruntime.batching.request_queue import ScoreFuture
from rmruntime.batching.runner import Statistics
from rmruntime.errors import DeadlineExceeded, InputError, QueueFull, RewardModelError
from rmruntime.options import ScoreOptions
from rmruntime.records import Request, parse_record
from rmruntime.reward_model import RewardModel
from rmruntime.scores import Score, Scored
from rmruntime.serve.served_model import ModelFacts

SMALL_BODY = 4096  # bytes of a request that is tokenized on the event loop, in less time than a thread takes to begin
FEW_RECORDS = 4  # of such a request
CHUNK = 64  # records that a thread tokenizes before the next look at whether they are still wanted
FULL_PAUSE = 0.005  # seconds between looks at a full queue, by a call that has begun


@dataclass(frozen=True, kw_only=True)
class ScoredRecord:
    """A record as it was read, its result and its own statistics; `request` is None where it is no record."""

    request: Request | None
    result: Scored | InputError
    statistics: Statistics


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """All records of a call in their order, and the facts of the bundle that scored them."""

    facts: ModelFacts
    records: list[ScoredRecord]

    @property
    def statistics(self) -> Statistics:
        """Of all records together."""
        total = Statistics()
        for record in self.records:
            total += record.statistics
        return total

    @property
    def results(self) -> list[Scored | InputError]:
        """One per record: a score, a list of them, or its error."""
        return [record.result for record in self.records]

    @property
    def scores(self) -> list[Score]:
        """All scores in one list. Raises the first error of a record, with its index where there are several."""
        return list(self._flat())

    def _flat(self) -> Iterator[Score]:
        for index, result in enumerate(self.results):
            if isinstance(result, InputError):
                raise located(result, index, len(self.records))
            yield from result if isinstance(result, list) else [result]


def located(error: InputError, index: int, count: int) -> InputError:
    """The error of a record with its index, where there are several.

    >>> str(located(InputError("it is empty"), 3, 8))
    'record 3: it is empty'
    """
    if count == 1:
        return error
    found = type(error)(f"record {index}: {error}")
    found.record_id, found.record_index = error.record_id, index
    return found


class ScoreCall:
    """Records that are scored together, in passes that all callers share.

    A call with more records than the queue has space for puts the rest there as it empties; only a call of which
    nothing is taken is refused, with QueueFull. With `strict` a record that cannot be scored ends the call at once.
    """

    def __init__(
        self, model: RewardModel, records: Sequence[Any], options: ScoreOptions, *, deadline: float | None, strict: bool
    ) -> None:
        """`deadline` is when scoring must have begun, by time.monotonic()."""
        self._model, self._records, self._options = model, records, options
        self._deadline, self._strict = deadline, strict
        self._requests: list[Request | None] = []
        self._futures: list[ScoreFuture] = []
        self._left, self._lock = len(records), threading.Lock()
        self._given_up = False
        self._loop = asyncio.get_running_loop()
        self._finished = asyncio.Event()
        self.put_at = 0.0  # when the last record was in the queue, by time.monotonic()

    async def run(self, pool: Executor, body_bytes: int) -> list[ScoredRecord]:
        """The results in order; tokenizes on `pool` unless little is asked.

        Raises QueueFull, DeadlineExceeded, BackendError and RewardModelError; with `strict` InputError.
        """
        try:
            if body_bytes <= SMALL_BODY and len(self._records) <= FEW_RECORDS:
                self._put_some(len(self._records))
            while len(self._futures) < len(self._records):
                await self._put_chunk(pool)
            self.put_at = time.monotonic()
            if self._records:
                await self._finished.wait()
            return [self._result(place) for place in range(len(self._records))]
        finally:
            self._give_up()

    async def _put_chunk(self, pool: Executor) -> None:
        before = len(self._futures)
        await self._loop.run_in_executor(pool, self._put_some, min(before + CHUNK, len(self._records)))
        if len(self._futures) == before:  # the queue is full
            if not before:
                self._put_one(self._records[0])  # raises why
                return
            if self._deadline is not None and time.monotonic() > self._deadline:
                raise DeadlineExceeded("not all of the request had begun by its deadline")
            await asyncio.sleep(FULL_PAUSE)

    def _put_some(self, up_to: int) -> None:
        """Put records into the queue until there are `up_to`, it is full, or nobody wants them."""
        try:
            while len(self._futures) < up_to and not self._given_up and not self._is_greedy():
                self._put_one(self._records[len(self._futures)])
        except QueueFull:
            if not self._futures and len(self._records) <= FEW_RECORDS:
                raise
        if self._given_up:
            self._give_up()

    def _is_greedy(self) -> bool:
        """Whether a call with many records leaves less than half of the queue to others."""
        return len(self._futures) >= FEW_RECORDS and self._model.waiting_tokens > self._model.queue_tokens // 2

    def _put_one(self, record: Any) -> None:
        request: Request | None = None
        try:
            request = parse_record(record)
            future = self._model.submit(request, self._options, deadline=self._seconds_left())
        except InputError as error:  # it is no record
            future = ScoreFuture()
            future.set_exception(error)
        failed = future.exception() if self._strict and future.done() else None
        if isinstance(failed, InputError):
            raise located(failed, len(self._futures), len(self._records))
        self._requests.append(request)
        self._futures.append(future)
        future.add_done_callback(self._one_done)

    def _seconds_left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def _one_done(self, _: Any) -> None:
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._finished.set)

    def _give_up(self) -> None:
        """Take back what has not begun; does nothing to what is done."""
        self._given_up = True
        for future in tuple(self._futures):
            future.cancel()

    def _result(self, place: int) -> ScoredRecord:
        future, request = self._futures[place], self._requests[place]
        result: Scored | InputError
        try:
            result = future.result()
        except InputError as error:
            if self._strict:
                raise located(error, place, len(self._records)) from error
            result = error
        except CancelledError:
            raise RewardModelError("the model was closed before this record was scored") from None
        return ScoredRecord(request=request, result=result, statistics=future.statistics)
