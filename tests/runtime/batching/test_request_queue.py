"""What waits: bounded in tokens, oldest first, gone once it is begun, cancelled or too late."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rmruntime import DeadlineExceeded, QueueFull, RewardModelError, ScoreFuture, ScoreOptions
from rmruntime.batching.request_queue import QueuedRequest, RequestQueue, settle
from rmruntime.records import parse_record
from rmruntime.sequences import TokenSequence


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def request(tokens: int, expires: float = float("inf"), **options: Any) -> QueuedRequest:
    ids = np.arange(tokens)
    return QueuedRequest(
        request=parse_record({"text": "a"}),
        options=ScoreOptions(**options),
        sequences=(TokenSequence(ids=ids, reads={}),),
        future=ScoreFuture(),
        expires=expires,
    )


def filled(*items: QueuedRequest, limit: int = 100) -> RequestQueue:
    queue = RequestQueue(limit, Clock())
    for item in items:
        queue.put(item)
    return queue


def test_the_bound_is_in_tokens_of_what_has_not_begun() -> None:
    first, second = request(60), request(40)
    queue = filled(first, second)
    with pytest.raises(
        QueueFull, match=r"2 requests of 100 tokens wait, expected at most 100 tokens with this one's 1"
    ):
        queue.put(request(1))
    assert queue.begin(first)
    queue.put(request(60))
    assert queue.tokens == 100 and queue.unfinished == 3


def test_a_request_beyond_the_bound_is_taken_where_nothing_else_waits() -> None:
    queue = filled(request(1000))
    assert queue.tokens == 1000
    with pytest.raises(QueueFull):
        queue.put(request(1))


def test_a_cancelled_request_leaves_at_once() -> None:
    first, second = request(60), request(40)
    queue = filled(first, second)
    assert first.future.cancel()
    assert queue.tokens == 40 and queue.unfinished == 1
    assert not queue.begin(first) and queue.begin(second)
    assert not second.future.cancel()
    assert queue.plan(10) == []


def test_one_that_was_cancelled_before_it_came_does_not_stay() -> None:
    item = request(60)
    item.future.cancel()
    assert filled(item).tokens == 0


def test_plans_are_made_of_the_oldest_with_the_same_budget() -> None:
    items = [request(1), request(1, max_batch_tokens=5), request(1), request(1), request(1, max_batch_tokens=5)]
    queue = filled(*items)
    assert queue.plan(2) == [items[0], items[2]]
    assert queue.unplanned_tokens == 3 and queue.tokens == 5
    assert queue.plan(9, like=items[0]) == [items[3]]
    assert queue.plan(9, like=items[0]) == []
    assert queue.plan(9) == [items[1], items[4]]
    assert queue.plan(9) == []


def test_what_has_not_begun_by_its_deadline_fails() -> None:
    late, early, never = request(10, 7.0), request(10, 3.0), request(10)
    queue = filled(late, early, never)
    clock: Any = queue.clock
    assert queue.seconds_to_deadline() == 3.0
    queue.expire()
    assert queue.tokens == 30
    clock.now = 3.0
    assert queue.seconds_to_deadline() == 0.0
    queue.expire()
    error = early.future.exception(0)
    assert isinstance(error, DeadlineExceeded) and isinstance(error, TimeoutError) and "deadline" in str(error)
    assert queue.tokens == 20 and queue.seconds_to_deadline() == 4.0
    clock.now = 8.0
    assert not queue.begin(late) and isinstance(late.future.exception(0), DeadlineExceeded)
    assert queue.begin(never) and queue.seconds_to_deadline() is None


def test_what_has_begun_has_no_deadline_any_more() -> None:
    item = request(10, 3.0)
    queue = filled(item)
    assert queue.begin(item)
    clock: Any = queue.clock
    clock.now = 5.0
    queue.expire()
    assert not item.future.done() and queue.seconds_to_deadline() is None and queue.begin(item)


def test_a_queue_that_refuses_says_why_and_can_be_waited_for() -> None:
    item = request(10)
    queue = filled(item)
    queue.refuse("it is being drained")
    with pytest.raises(RewardModelError, match="drained"):
        queue.put(request(1))
    assert not queue.join(timeout=0)
    queue.fail_waiting(RewardModelError("closed"))
    assert queue.join(timeout=0) and queue.tokens == 0
    assert str(item.future.exception(0)) == "closed"


def test_a_future_is_settled_once_and_its_callbacks_stop_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    future, told = ScoreFuture(), []
    monkeypatch.setattr("threading.excepthook", told.append)

    def leaves(_: object) -> None:
        raise SystemExit(3)

    future.add_done_callback(leaves)
    settle(future, RewardModelError("first"))
    settle(future, RewardModelError("second"))
    assert str(future.exception(0)) == "first"
    assert [type(one.exc_value) for one in told] == [SystemExit]


def test_requests_that_come_together_wait_for_space_and_are_planned_together() -> None:
    first = request(60)
    queue = filled(first)
    together = [request(30), request(30)]
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(queue.put_together, together)
        assert queue.plan(100) == [first] and not done.done()
        assert queue.begin(first)
        done.result()
    assert queue.plan(100) == together and queue.tokens == 60


def test_what_waits_for_space_is_told_that_there_will_be_none() -> None:
    queue = filled(request(60))
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(queue.put_together, [request(60)])
        queue.refuse("it is closed")
        with pytest.raises(RewardModelError, match="it is closed"):
            done.result()
    assert queue.tokens == 60


def test_more_than_the_limit_is_taken_where_nothing_else_waits() -> None:
    queue = filled()
    queue.put_together([request(80), request(80)])
    assert queue.tokens == 160
