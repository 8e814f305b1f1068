"""Submitted requests share passes: which ones, in what order, and what a fault, a deadline or a cancellation takes."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from gated_engine import PATIENCE, GatedEngine, gated_model, runtime_threads, wait_until
from rmexport import export
from rmruntime import (
    BackendError,
    BundleError,
    DeadlineExceeded,
    DeviceLimit,
    RewardModel,
    RewardModelError,
    Score,
    ScoreFuture,
    ScoreOptions,
    Statistics,
)
from rmruntime.errors import DeviceMemoryError
from tiny_checkpoints import sequence_classifier

ONE_BY_ONE = ScoreOptions(max_batch_tokens=1)
Gated = tuple[RewardModel, GatedEngine]


@pytest.fixture(scope="module")
def bundle(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    def make(folder: Path) -> None:
        export(str(sequence_classifier(folder / "c").folder), folder / "b")

    return made_once("queue-classifier", make) / "b"


@pytest.fixture(scope="module")
def plain(bundle: Path) -> Iterator[RewardModel]:
    with RewardModel.load(bundle, device="ort-cpu") as model:
        yield model


@pytest.fixture
def gated(bundle: Path) -> Iterator[Gated]:
    before = runtime_threads()
    model, engine = gated_model(bundle)
    yield model, engine
    engine.permit(1000)
    model.close()
    assert runtime_threads() <= before


def ids(first: int, length: int = 4) -> dict[str, Any]:
    """A record whose tokens are all its own."""
    return {"input_ids": list(range(first, first + length))}


def family(prompt: int, answer: int) -> dict[str, Any]:
    """Ten tokens of a prompt, two of an answer."""
    return {"input_ids": [*range(prompt, prompt + 10), answer, answer]}


def held(gated: Gated) -> ScoreFuture:
    """A request whose pass has begun, and waits."""
    model, engine = gated
    future = model.submit(ids(30))
    engine.wait_for_pass()
    return future


def result(future: ScoreFuture) -> Any:
    return future.result(PATIENCE)


def error_of(future: ScoreFuture) -> BaseException | None:
    return future.exception(PATIENCE)


def waiting_requests(model: RewardModel) -> int:
    return len(model._loop.turns._waiting["requests"])


def test_whatever_waits_while_the_engine_is_busy_is_the_next_pass(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    records = [ids(10 * number) for number in range(1, 9)]
    first = held(gated)
    futures = [model.submit(record) for record in records]
    assert model.waiting_tokens == 4 * len(records)
    engine.permit(2)
    assert [result(future) for future in futures] == plain.score(records)
    assert result(first) == plain.score([ids(30)])[0]
    assert len(engine.passes) == 2 and model.waiting_tokens == 0


def test_families_go_together_and_the_oldest_first(gated: Gated, plain: RewardModel) -> None:
    """Three families that come in turn, of which a pass takes one: sixteen tokens, for thirty-six that are given."""
    model, engine = gated
    held(gated)
    records = [family(prompt, answer) for answer in (7, 8, 9) for prompt in (60, 20, 40)]
    options = ScoreOptions(max_batch_tokens=16)
    futures = [model.submit(record, options) for record in records]
    engine.permit(4)
    assert [result(future) for future in futures] == plain.score(records)
    assert [min(set(one) - {0}) for one in engine.passes[1:]] == [7, 7, 7]
    assert [[p for p in (60, 20, 40) if p in one] for one in engine.passes[1:]] == [[60], [20], [40]]


def test_full_passes_are_packed_ahead_and_what_is_less_stays_open(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    model._loop.executor.batch_tokens = 8
    held(gated)
    worker = model._submitter._worker
    assert worker is not None
    records = [ids(first) for first in (40, 50, 60, 70, 80)]
    futures = [model.submit(record) for record in records[:3]]
    assert not worker._composer._wave and not worker._composer._round
    futures.append(model.submit(records[3]))
    wait_until(lambda: worker._composer._wave)
    assert len(worker._composer._wave[0].parts) == 2
    futures.append(model.submit(records[4]))
    engine.permit(4)
    assert [result(future) for future in futures] == plain.score(records)
    found = [[first for first in (40, 50, 60, 70, 80) if first in one] for one in engine.passes[1:]]
    assert found == [[40, 50], [60, 70], [80]]


def test_what_is_cancelled_is_not_computed_even_when_it_was_packed(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    model._loop.executor.batch_tokens = 20
    held(gated)
    worker = model._submitter._worker
    assert worker is not None
    records = [family(40, answer) for answer in (7, 8, 9, 10)]
    futures = [model.submit(record) for record in records]
    wait_until(lambda: worker._composer._wave)
    before = model.waiting_tokens
    assert futures[1].cancel() and model.waiting_tokens == before - 12
    engine.permit(2)
    with pytest.raises(CancelledError):
        futures[1].result()
    assert [result(futures[i]) for i in (0, 2, 3)] == [plain.score([records[i]])[0] for i in (0, 2, 3)]
    assert 8 not in engine.passes[1] and {7, 9, 10} <= set(engine.passes[1])


def test_a_pass_of_cancelled_requests_alone_is_no_pass(gated: Gated) -> None:
    model, engine = gated
    first = held(gated)
    for future in [model.submit(ids(40)), model.submit(ids(50))]:
        assert future.cancel()
    engine.permit(9)
    result(first)
    result(model.submit(ids(60)))
    assert len(engine.passes) == 2


def test_a_deadline_passes_while_the_engine_is_busy(gated: Gated) -> None:
    """The future fails then, not when the engine is free."""
    model, engine = gated
    first = held(gated)
    late, never, long = model.submit(ids(40), deadline=0.01), model.submit(ids(50), deadline=-3), model.submit(ids(60))
    for future in (late, never):
        assert isinstance(error_of(future), DeadlineExceeded)
    assert not first.done() and model.waiting_tokens == 4
    engine.permit(9)
    result(long)
    assert not {40, 50} & {token for one in engine.passes for token in one}
    assert isinstance(result(model.submit(ids(70), deadline=PATIENCE)), Score)


def test_a_fault_of_the_engine_fails_its_own_pass_only(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    engine.faults[1] = BackendError("the device fell off the bus")
    first = held(gated)
    failing = [model.submit(ids(40)), model.submit(ids(50))]
    engine.permit()
    result(first)
    engine.wait_for_pass()
    after = model.submit(ids(60))
    engine.permit(2)
    assert [str(error_of(future)) for future in failing] == ["the device fell off the bus"] * 2
    assert result(after) == plain.score([ids(60)])[0]


def test_a_fault_is_of_any_type_and_the_next_pass_that_was_packed_goes_on(gated: Gated) -> None:
    model, engine = gated
    model._loop.executor.batch_tokens = 8
    engine.faults[1] = RuntimeError("not ours")
    held(gated)
    futures = [model.submit(ids(first)) for first in (40, 50, 60, 70)]
    engine.permit(9)
    assert [type(error_of(future)) for future in futures] == [RuntimeError, RuntimeError, type(None), type(None)]


def test_a_request_of_several_passes(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    engine.permit(3)
    record = {"prompt": "What?", "responses": ["a", "b c", "d"]}
    future = model.submit(record, ONE_BY_ONE)
    assert result(future) == plain.score([record])[0]
    assert len(engine.passes) == 3 and future.statistics.passes == 3


def test_the_end_of_a_request_that_was_packed_ahead_is_computed(gated: Gated, plain: RewardModel) -> None:
    """Two passes at a time, where nothing else waits."""
    model, engine = gated
    record = {"prompt": "What?", "responses": ["a", "b c", "d", "e"]}
    model._loop.executor.wave_tokens = plain.score([record])[0][0].tokens + 1  # type: ignore[index, union-attr]
    future = model.submit(record, ONE_BY_ONE)
    engine.wait_for_pass()
    worker = model._submitter._worker
    assert worker is not None
    wait_until(lambda: len(worker._composer._wave) == 2)
    assert not worker._composer._round and not model.waiting_tokens
    engine.permit(9)
    assert result(future) == plain.score([record])[0]


def test_a_request_one_of_whose_passes_fails(gated: Gated) -> None:
    """The rest of it is not computed."""
    model, engine = gated
    first = held(gated)
    engine.faults[1] = BackendError("out of order")
    future = model.submit({"prompt": "What?", "responses": ["a", "b c", "d", "e"]}, ONE_BY_ONE)
    engine.permit(2)
    assert isinstance(error_of(future), BackendError)
    engine.permit(9)
    result(first)
    result(model.submit(ids(50)))
    assert len(engine.passes) <= 4  # one may have been on its way


def test_what_does_not_fit_is_the_limit_of_its_own_request(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    held(gated)
    long, short = model.submit(ids(40)), model.submit(ids(50))
    engine.faults = {number: DeviceMemoryError("full") for number in (1, 2)}  # together, then the first half
    engine.permit(9)
    assert sorted(type(error_of(future)) is DeviceLimit for future in (long, short)) == [False, True]
    fitting = short if error_of(short) is None else long
    assert result(fitting) in plain.score([ids(40), ids(50)])


def test_a_bundle_that_was_changed_says_so_to_the_requests(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = gated
    engine.permit(9)
    result(model.submit(ids(40)))

    def changed() -> None:
        raise BundleError("rewritten")

    worker = model._submitter._worker
    assert worker is not None
    object.__setattr__(worker._steps, "check", changed)
    assert isinstance(error_of(model.submit(ids(50))), BundleError)


def test_callbacks_that_raise_stop_nobody(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = gated
    told: list[Any] = []
    monkeypatch.setattr("threading.excepthook", told.append)
    first = held(gated)

    def fails(_: object) -> None:
        raise ZeroDivisionError

    def leaves(_: object) -> None:
        raise SystemExit

    first.add_done_callback(fails)
    first.add_done_callback(leaves)
    engine.permit(9)
    result(first)
    result(model.submit(ids(40)))
    assert [type(one.exc_value) for one in told] == [SystemExit]


def test_a_callback_may_submit_and_score(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    engine.permit(9)
    found: list[Any] = []
    both = threading.Event()

    def again(_: object) -> None:
        found.append(model.score([ids(50)])[0])
        model.submit(ids(60)).add_done_callback(lambda future: (found.append(future.result()), both.set()))

    model.submit(ids(40)).add_done_callback(again)
    assert both.wait(PATIENCE)
    assert found == plain.score([ids(50), ids(60)])


def test_each_request_keeps_its_own_options(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    held(gated)
    record = {"prompt": "What is it?", "response": "the sum of all that there is"}
    every = [
        ScoreOptions(max_length=20, truncate="left"),
        ScoreOptions(),
        ScoreOptions(max_length=20, truncate="right"),
        ScoreOptions(max_batch_tokens=7),
    ]
    futures = [model.submit(record, options) for options in every]
    short = model.submit(record, ScoreOptions(max_length=5))
    engine.permit(9)
    assert [result(future) for future in futures] == [plain.score([record], options)[0] for options in every]
    assert type(error_of(short)).__name__ == "InputTooLong"
    assert len(engine.passes) == 3  # the first; those of any size; that of seven tokens


def test_requests_of_other_budgets_share_no_pass(gated: Gated, plain: RewardModel) -> None:
    """Not even the last pass of what was planned before."""
    model, engine = gated
    model._loop.executor.batch_tokens = 8
    held(gated)
    firsts, small = (40, 50, 60), (70, 80)
    futures = [model.submit(ids(first)) for first in firsts] + [model.submit(ids(first), ONE_BY_ONE) for first in small]
    engine.permit(9)
    assert [result(future) for future in futures] == plain.score([ids(first) for first in (*firsts, *small)])
    shared = [[first for first in (*firsts, *small) if first in one] for one in engine.passes[1:]]
    assert shared == [[40, 50], [60], [70], [80]]


def test_a_request_waits_for_one_pass_of_a_batch(gated: Gated, plain: RewardModel) -> None:
    """However many threads score one, and the batch goes on between two passes of requests."""
    model, engine = gated
    batches = [[ids(10 * tens) for tens in range(1, 7)], [ids(10 * tens + 5) for tens in range(1, 7)]]
    found: dict[int, Any] = {}

    def batch(number: int) -> None:
        found[number] = model.score(batches[number], ONE_BY_ONE)

    threads = [threading.Thread(target=batch, args=(number,)) for number in range(2)]
    threads[0].start()
    engine.wait_for_pass()
    threads[1].start()
    wait_until(lambda: len(model._loop.turns._waiting["batches"]) == 1)
    futures = [model.submit(ids(first), ONE_BY_ONE) for first in (90, 100)]
    for number in range(2):
        wait_until(lambda: waiting_requests(model) == 1)  # during a pass of a batch
        engine.permit()
        engine.wait_for_pass()
        assert futures[number].running()
        wait_until(lambda: model._loop.turns._waiting["batches"])
        engine.permit()
        engine.wait_for_pass()
    engine.permit(1000)
    assert [result(future) for future in futures] == plain.score([ids(90), ids(100)])
    for thread in threads:
        thread.join(PATIENCE)
    assert [found[number] for number in range(2)] == [plain.score(records) for records in batches]
    places = [number for number, one in enumerate(engine.passes) if one[0] in (90, 100)]
    assert places == [1, 3]


def test_a_shared_token_counts_for_who_brought_it(gated: Gated) -> None:
    model, engine = gated
    before = held(gated)
    second, first = model.submit(family(40, 9)), model.submit(family(40, 7))  # the later one sorts first
    alone = model.submit(ids(70, 5))
    engine.permit(2)
    for future in (before, second, first, alone):
        result(future)
    assert second.statistics == Statistics(sequences=1, given=12, computed=12, passes=1)
    assert first.statistics == Statistics(sequences=1, given=12, computed=2, passes=1)
    assert alone.statistics == Statistics(sequences=1, given=5, computed=5, passes=1)
    whole = model.statistics
    assert (whole.sequences, whole.given, whole.computed, whole.passes) == (4, 33, 23, 2)
    engine.permit()
    model.score([ids(40)])
    assert model.statistics.passes == 3


def test_closing_fails_what_waits_and_waits_for_what_runs(gated: Gated, plain: RewardModel) -> None:
    model, engine = gated
    running = held(gated)
    waiting = [model.submit(ids(40)), model.submit({"prompt": "What?", "responses": ["a", "b"]}, ONE_BY_ONE)]
    closing = threading.Thread(target=model.close)
    closing.start()
    for future in waiting:
        with pytest.raises(RewardModelError, match="closed"):
            future.result(PATIENCE)
    assert closing.is_alive() and not running.done()
    with pytest.raises(RewardModelError, match="closed"):
        model.submit(ids(50))
    engine.permit()
    closing.join(PATIENCE)
    assert not closing.is_alive() and running.result(0) == plain.score([ids(30)])[0]
    assert len(engine.passes) == 1


def test_closing_in_the_middle_of_a_request_of_several_passes(gated: Gated) -> None:
    model, engine = gated
    future = model.submit({"prompt": "What?", "responses": ["a", "b"]}, ONE_BY_ONE)
    engine.wait_for_pass()
    closing = threading.Thread(target=model.close)
    closing.start()
    wait_until(lambda: model._submitter._closed)
    engine.permit(9)
    with pytest.raises(RewardModelError, match="closed"):
        future.result(PATIENCE)
    closing.join(PATIENCE)


def test_a_callback_may_close(gated: Gated) -> None:
    model, engine = gated
    before = runtime_threads()
    first = held(gated)
    first.add_done_callback(lambda _: model.close())
    engine.permit(9)
    result(first)
    wait_until(lambda: runtime_threads() <= before)
    with pytest.raises(RewardModelError, match="closed"):
        model.score([ids(40)])


def test_a_bug_of_the_queue_leaves_nobody_waiting(gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = gated
    told: list[Any] = []
    monkeypatch.setattr("threading.excepthook", told.append)
    held(gated)
    worker = model._submitter._worker
    assert worker is not None

    def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(worker._composer, "next_wave", broken)
    future = model.submit(ids(40))
    engine.permit(9)
    assert isinstance(error_of(future), RewardModelError)
    with pytest.raises(RewardModelError, match="ZeroDivisionError: a bug"):
        model.submit(ids(50))
    assert [type(one.exc_value) for one in told] == [ZeroDivisionError]


def test_a_pass_that_cannot_be_planned_or_packed_is_its_requests_error(
    gated: Gated, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engine = gated
    engine.permit(9)
    result(model.submit(ids(30)))
    worker = model._submitter._worker
    assert worker is not None

    def broken(*_: object) -> None:
        raise MemoryError("no more")

    for owner, name in ((worker._runner, "prepare"), (worker._composer, "_planned")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, broken)
            assert isinstance(error_of(model.submit(ids(40))), MemoryError)
        result(model.submit(ids(50)))
