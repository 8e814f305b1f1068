"""Requests that wait for the engine: a bounded number of tokens, oldest first, each with its options and deadline."""

import heapq
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rmruntime.batching.runner import Statistics
from rmruntime.errors import DeadlineExceeded, QueueFull, RewardModelError
from rmruntime.options import ScoreOptions
from rmruntime.records import Request
from rmruntime.scores import Outcome, Scored
from rmruntime.sequences import TokenSequence

Clock = Callable[[], float]  # seconds, from any beginning
Result = TypeVar("Result")


class CountedFuture(Future[Result], Generic[Result]):
    """The future of a queued request, with its own `statistics` once it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = Statistics()


class ScoreFuture(CountedFuture[Scored]):
    """What `RewardModel.submit` returns: the score, or the error, that one record will have.

    `statistics` are, once it is done, the request's own: its `sequences` and their tokens `given`; of these `computed`
    for it, or `cached`, where a token that requests of a pass share counts for the one submitted first; and the
    `passes` that it was part of. Padding counts for no request: `padded` is 0. Callbacks run on a thread of the model
    and should be brief.
    """


class OutcomeFuture(CountedFuture[Outcome]):
    """The raw outputs that one sequence of a session will have. Callbacks run on a thread of the model."""


@dataclass(eq=False, kw_only=True)
class QueuedRequest:
    """A request in token sequences, on its way; `expires` is when it must have begun, by the queue's clock.

    `outcomes` are those of its sequences that were computed so far, by place. `request` is None for a lone sequence,
    whose future has its outcome.
    """

    request: Request | None
    options: ScoreOptions
    sequences: tuple[TokenSequence, ...]
    future: ScoreFuture | OutcomeFuture
    expires: float = math.inf
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Of all its sequences."""
        return sum(len(sequence.ids) for sequence in self.sequences)


class RequestQueue:
    """What waits, in the order in which it came; safe from many threads.

    A request waits until it is begun, cancelled or expired, and it is planned before it is begun. Its tokens count
    against `limit` while it waits; a request of more than that is taken where nothing else waits. `changed` is
    notified, with its lock held, whenever any of this changes.
    """

    def __init__(self, limit: int, clock: Clock = time.monotonic) -> None:
        self.limit, self.clock = limit, clock
        self.changed = threading.Condition()
        self._refusal = ""  # why nothing more is taken
        self._waiting: dict[QueuedRequest, None] = {}
        self._unplanned: dict[QueuedRequest, None] = {}
        self._deadlines: list[tuple[float, int, QueuedRequest]] = []
        self._unfinished: set[QueuedRequest] = set()
        self._tokens = self._unplanned_tokens = self._count = 0

    @property
    def tokens(self) -> int:
        """Of all that waits."""
        return self._tokens

    @property
    def unplanned_tokens(self) -> int:
        """Of what waits and is in no plan yet."""
        return self._unplanned_tokens

    @property
    def unfinished(self) -> int:
        """The number of requests that have no result yet."""
        return len(self._unfinished)

    def check(self, tokens: int = 1) -> None:
        """Raises QueueFull where `tokens` more have no space, and as `check_open` does."""
        with self.changed:
            self.check_open()
            if not self._has_space(tokens):
                raise QueueFull(
                    f"{len(self._waiting)} requests of {self._tokens} tokens wait, expected at most {self.limit} "
                    f"tokens with this one's {tokens}: submit it again once some have their scores, or load the model "
                    "with more queue_tokens"
                )

    def check_open(self) -> None:
        """Raises RewardModelError where no more requests are taken."""
        if self._refusal:
            raise RewardModelError(self._refusal)

    def put(self, item: QueuedRequest) -> None:
        """Have a request wait. Raises as `check` does."""
        with self.changed:
            self.check(item.tokens)
            self._add(item)
        item.future.add_done_callback(lambda _: self._ended(item))

    def put_together(self, items: Sequence[QueuedRequest]) -> None:
        """Have requests wait, which one pass may have; blocks until there is space. Raises as `check_open` does."""
        tokens = sum(item.tokens for item in items)
        with self.changed:
            self.changed.wait_for(lambda: self._refusal or self._has_space(tokens))
            self.check_open()
            for item in items:
                self._add(item)
        for item in items:
            item.future.add_done_callback(lambda _, item=item: self._ended(item))  # type: ignore[misc]

    def plan(self, most: int, like: QueuedRequest | None = None) -> list[QueuedRequest]:
        """The oldest requests that are not planned yet, about `most` sequences of them.

        All have the same `max_batch_tokens`: that of `like`, or of the oldest.
        """
        taken: list[QueuedRequest] = []
        with self.changed:
            like = like or next(iter(self._unplanned), None)
            for item in self._unplanned:
                if like is not None and item.options.max_batch_tokens == like.options.max_batch_tokens:
                    taken.append(item)
                    most -= len(item.sequences)
                if most <= 0:
                    break
            for item in taken:
                self._forget_unplanned(item)
        return taken

    def begin(self, item: QueuedRequest) -> bool:
        """Whether a request, or what is left of it, is to be computed now: it is neither cancelled nor expired."""
        with self.changed:
            waits = self._leave(item)
        if not waits:
            return not item.future.done()
        if item.expires <= self.clock():
            _expire(item)
            return False
        return item.future.set_running_or_notify_cancel()

    def expire(self) -> None:
        """Fail what has not begun by its deadline."""
        late: list[QueuedRequest] = []
        with self.changed:
            while self._deadlines and self._deadlines[0][0] <= self.clock():
                item = heapq.heappop(self._deadlines)[2]
                if self._leave(item):
                    late.append(item)
        for item in late:
            _expire(item)

    def seconds_to_deadline(self) -> float | None:
        """Until the next deadline of what waits, 0 where it has passed; None without one. For holders of the lock."""
        while self._deadlines and self._deadlines[0][2] not in self._waiting:
            heapq.heappop(self._deadlines)
        return max(0.0, self._deadlines[0][0] - self.clock()) if self._deadlines else None

    def refuse(self, why: str) -> None:
        """Take no more requests; `why` is what whoever submits one is told."""
        with self.changed:
            self._refusal = why
            self.changed.notify_all()

    def fail_waiting(self, error: BaseException) -> None:
        """End everything that has not begun."""
        with self.changed:
            waiting = list(self._waiting)
            for item in waiting:
                self._leave(item)
        for item in waiting:
            settle(item.future, error)

    def fail_unfinished(self, error: BaseException) -> None:
        """End what has begun, too."""
        with self.changed:
            unfinished = list(self._unfinished)
        for item in unfinished:
            settle(item.future, error)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all requests that were taken are done; False where `timeout`, seconds, passes before."""
        with self.changed:
            return self.changed.wait_for(lambda: not self._unfinished, timeout)

    def _has_space(self, tokens: int) -> bool:
        return not self._tokens or self._tokens + tokens <= self.limit

    def _add(self, item: QueuedRequest) -> None:
        self._waiting[item] = self._unplanned[item] = None
        self._unfinished.add(item)
        self._tokens += item.tokens
        self._unplanned_tokens += item.tokens
        self._count += 1
        if item.expires < math.inf:
            heapq.heappush(self._deadlines, (item.expires, self._count, item))
        self.changed.notify_all()

    def _leave(self, item: QueuedRequest) -> bool:
        """Whether it waited until now."""
        if item not in self._waiting:
            return False
        del self._waiting[item]
        self._tokens -= item.tokens
        self._forget_unplanned(item)
        self.changed.notify_all()
        return True

    def _forget_unplanned(self, item: QueuedRequest) -> None:
        if item in self._unplanned:
            del self._unplanned[item]
            self._unplanned_tokens -= item.tokens

    def _ended(self, item: QueuedRequest) -> None:
        with self.changed:
            self._leave(item)
            self._unfinished.discard(item)
            self.changed.notify_all()


def settle(future: Future[Any], result: Any) -> None:
    """Give a future its result or its error, unless it was cancelled. Whatever its callbacks raise goes no further."""
    try:
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)
    except InvalidStateError:
        pass
    except BaseException as error:  # futures report what derives from Exception themselves
        threading.excepthook(
            threading.ExceptHookArgs((type(error), error, error.__traceback__, threading.current_thread()))
        )


def _expire(item: QueuedRequest) -> None:
    settle(item.future, DeadlineExceeded("the request had not begun by its deadline, and was not computed"))
