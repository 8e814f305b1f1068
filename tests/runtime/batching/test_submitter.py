"""`submit` and `ascore`: every kind of record, event loops, cancellation, a full queue, draining, forks and exits."""

import asyncio
import gc
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversations import ragged_records, step_records
from gated_engine import PATIENCE, GatedEngine, gated_model, runtime_threads, wait_until
from rmexport import ExportOptions, export
from rmruntime import (
    DeadlineExceeded,
    InputError,
    InputTooLong,
    OptionError,
    QueueFull,
    RecordError,
    RewardModel,
    RewardModelError,
    ScoreOptions,
    Statistics,
)
from rmruntime.records import parse_record
from tiny_checkpoints import TinyShape, causal_lm, gated, sequence_classifier

Made = Callable[[str, Callable[[Path], None]], Path]
RECORDS: list[dict[str, Any]] = [
    *ragged_records(12),
    {"prompt": "What?", "responses": ["a", "b c", "d e f"]},
    {"prompt": "What?", "chosen": "Hello world.", "rejected": "x"},
    {"prompt": "What?", "chosen": ["a", "b"], "rejected": ["c"]},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
    *step_records(3),
]


@pytest.fixture(scope="module")
def bundle(made_once: Made) -> Path:
    def make(folder: Path) -> None:
        export(str(gated(folder / "c", TinyShape(num_hidden_layers=4)).folder), folder / "b", ExportOptions(stages=4))

    return made_once("submitted-gated", make) / "b"


@pytest.fixture(scope="module")
def classifier(made_once: Made) -> Path:
    """Takes any token ids."""

    def make(folder: Path) -> None:
        export(str(sequence_classifier(folder / "c").folder), folder / "b")

    return made_once("queue-classifier", make) / "b"


@pytest.fixture(scope="module", params=["ort-cpu", "openvino"])
def model(request: pytest.FixtureRequest, bundle: Path) -> Iterator[RewardModel]:
    with RewardModel.load(bundle, device=request.param) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def expected(model: RewardModel) -> list[Any]:
    return model.score(RECORDS)


@pytest.fixture
def held(classifier: Path) -> Iterator[tuple[RewardModel, GatedEngine]]:
    """A queue for a hundred tokens, and a pass that has begun."""
    model, engine = gated_model(classifier, queue_tokens=100)
    model.submit(RECORDS[0])
    engine.wait_for_pass()
    yield model, engine
    engine.permit(1000)
    model.close()


def test_every_kind_of_record_has_the_score_that_it_has_in_a_batch(model: RewardModel, expected: list[Any]) -> None:
    futures = [model.submit(record) for record in RECORDS]
    assert [future.result(PATIENCE) for future in futures] == expected
    assert model.submit(parse_record(RECORDS[0])).result(PATIENCE) == expected[0]
    done = {future: number for number, future in enumerate(model.submit(record) for record in RECORDS)}
    for future in as_completed(done, timeout=PATIENCE):
        assert future.result() == expected[done[future]]


def test_thousands_of_futures(model: RewardModel, expected: list[Any]) -> None:
    futures = [model.submit(RECORDS[number % 12]) for number in range(1000)]
    assert all(future.result(PATIENCE) == expected[number % 12] for number, future in enumerate(futures))
    own = sum((future.statistics for future in futures), Statistics())
    assert own.sequences == own.passes == 1000 and own.given >= own.computed > 0


def test_one_per_request_and_of_all_passes_the_same_tokens(bundle: Path) -> None:
    with RewardModel.load(bundle, device="ort-cpu") as model:
        futures = [model.submit(record) for record in RECORDS]
        for future in futures:
            future.result(PATIENCE)
        own, whole = sum((future.statistics for future in futures), Statistics()), model.statistics
        assert (own.sequences, own.given, own.computed) == (whole.sequences, whole.given, whole.computed)


def test_many_threads_and_batches_at_once(model: RewardModel, expected: list[Any]) -> None:
    def submits(seed: int) -> None:
        order = random.Random(seed).sample(range(len(RECORDS)), len(RECORDS))
        futures = [model.submit(RECORDS[number]) for number in order]
        assert [future.result(PATIENCE) for future in futures] == [expected[number] for number in order]

    def scores(_: int) -> None:
        assert model.score(RECORDS, ScoreOptions(max_batch_tokens=300)) == expected

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(scores if seed % 4 == 0 else submits, seed) for seed in range(16)]:
            done.result(PATIENCE)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seeds=st.lists(st.integers(0, 10**6), min_size=2, max_size=4),
    budget=st.sampled_from([None, 1, 60, 300]),
    more=st.data(),
)
def test_scores_are_bitwise_those_of_a_batch_whatever_else_goes_on(
    model: RewardModel, expected: list[Any], seeds: list[int], budget: int | None, more: st.DataObject
) -> None:
    """Threads that submit, cancel, wait and score batches, in any order."""

    def caller(seed: int) -> None:
        rng, pending = random.Random(seed), list[tuple[int, Future[Any]]]()
        options = ScoreOptions(max_batch_tokens=rng.choice([None, budget]))
        for _ in range(25):
            kind, number = rng.random(), rng.randrange(len(RECORDS))
            if kind < 0.6:
                pending.append((number, model.submit(RECORDS[number], options)))
            elif kind < 0.75 and pending:
                rng.choice(pending)[1].cancel()
            elif kind < 0.9 and pending:
                check(*pending.pop(rng.randrange(len(pending))))
            else:
                some = rng.sample(range(len(RECORDS)), 4)
                assert model.score([RECORDS[i] for i in some], options) == [expected[i] for i in some]
        for one in pending:
            check(*one)

    def check(number: int, future: Future[Any]) -> None:
        if not future.cancelled():
            assert future.result(PATIENCE) == expected[number]

    with ThreadPoolExecutor(len(seeds)) as pool:
        for done in [pool.submit(caller, seed) for seed in seeds]:
            done.result(PATIENCE)
    assert model.waiting_tokens == 0


@pytest.mark.parametrize("memory", [False, True], ids=["side by side", "in turn"])
def test_stages(bundle: Path, memory: bool) -> None:
    options: dict[str, Any] = {"device": "ort-cpu,ort-cpu"}
    if memory:
        with RewardModel.load(bundle, device="ort-cpu") as whole:
            limit = max(stage.weight_bytes for stage in whole.manifest.graphs[0].stages)
        options = {"device": "ort-cpu", "stage_memory": limit}
    with RewardModel.load(bundle, **options) as model:
        expected = model.score(RECORDS[:8])
        small = ScoreOptions(max_batch_tokens=150)
        futures = [model.submit(record, small) for record in RECORDS[:8]]
        bad = model.submit({"input_ids": [10**6]})
        assert [future.result(PATIENCE) for future in futures] == expected
        assert isinstance(bad.exception(PATIENCE), InputError) and "stages" in model.backend
        lone = model.submit(RECORDS[0])  # nothing comes after it that would push it through
        assert lone.result(PATIENCE) == expected[0]


def test_process_rewards(made_once: Made) -> None:
    def make(folder: Path) -> None:
        export(str(causal_lm(folder / "c").folder), folder / "b", ExportOptions(recipe="rlhflow-prm"))

    with RewardModel.load(made_once("submitted-steps", make) / "b", device="ort-cpu") as model:
        records = step_records(8)
        every = [ScoreOptions(aggregate=name) for name in ("mean", "min", "last", "prod")] * 2
        futures = [model.submit(record, options) for record, options in zip(records, every, strict=True)]
        alone = [model.score([record], options)[0] for record, options in zip(records, every, strict=True)]
        assert [future.result(PATIENCE) for future in futures] == alone


def test_errors_come_through_the_future_and_name_the_record(model: RewardModel) -> None:
    good = model.submit(RECORDS[0])
    wrong: list[tuple[Any, type[Exception], Any]] = [
        ({"id": "r-1", "prompt": "a"}, RecordError, "r-1"),
        ("text", RecordError, None),
        ({"id": 7, "input_ids": [10**6]}, InputError, 7),
        ({"id": 8, "prompt": "a", "response": "b " * 5000}, InputTooLong, 8),
        (parse_record({"id": 9, "input_ids": [10**6]}), InputError, 9),
    ]
    for record, kind, identity in wrong:
        error = model.submit(record).exception(PATIENCE)
        assert type(error) is kind and isinstance(error, InputError) and error.record_id == identity
        with pytest.raises(kind) as raised:
            asyncio.run(model.ascore(record))
        assert getattr(raised.value, "record_id", None) == identity
    assert good.exception(PATIENCE) is None


@pytest.mark.parametrize("deadline", ["soon", float("nan"), True, [1]])
def test_what_is_no_deadline_or_no_options_is_told_at_once(model: RewardModel, deadline: Any) -> None:
    with pytest.raises(OptionError, match="deadline"):
        model.submit(RECORDS[0], deadline=deadline)
    with pytest.raises(OptionError, match="options"):
        model.submit(RECORDS[0], {"truncate": "left"})  # type: ignore[arg-type] # as some would


@pytest.mark.parametrize("deadline", [PATIENCE, float("inf"), np.float64(PATIENCE), None])
def test_deadlines_that_are_met(model: RewardModel, expected: list[Any], deadline: Any) -> None:
    assert model.submit(RECORDS[0], deadline=deadline).result(PATIENCE) == expected[0]


def test_only_submitting_meets_a_full_queue(held: tuple[RewardModel, GatedEngine]) -> None:
    model, engine = held
    taken = []
    with pytest.raises(QueueFull, match="queue_tokens"):
        for _ in range(1000):
            taken.append(model.submit({"input_ids": list(range(20))}))
    assert len(taken) == 5 and model.waiting_tokens == 100
    with pytest.raises(QueueFull):
        asyncio.run(model.ascore(RECORDS[0]))
    engine.permit(1000)
    assert len(model.score(RECORDS)) == len(RECORDS)  # waits instead
    for future in taken:
        future.result(PATIENCE)
    assert asyncio.run(model.ascore(RECORDS[0])) == model.score(RECORDS[:1])[0]


def test_a_queue_that_fills_up_while_a_record_is_tokenized(
    held: tuple[RewardModel, GatedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = held
    encode = model._submitter._encode

    def slow(*given: Any) -> Any:
        monkeypatch.setattr(model._submitter, "_encode", encode)
        model.submit({"input_ids": list(range(90))})
        return encode(*given)

    monkeypatch.setattr(model._submitter, "_encode", slow)
    with pytest.raises(QueueFull):
        asyncio.run(model.ascore({"input_ids": list(range(20))}))


@pytest.mark.parametrize("tokens", [0, -1, "many", 1.5, None])
def test_a_queue_of_no_size(bundle: Path, tokens: Any) -> None:
    with pytest.raises(OptionError, match="queue_tokens"):
        RewardModel.load(bundle, queue_tokens=tokens)


def test_gathering_in_several_event_loops(model: RewardModel, expected: list[Any]) -> None:
    async def gathered() -> list[Any]:
        return await asyncio.gather(*(model.ascore(record) for record in RECORDS))

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(asyncio.run, gathered()) for _ in range(3)]:
            assert done.result(PATIENCE) == expected

    async def mixed() -> list[Any]:
        records = [RECORDS[0], {"prompt": "a"}, RECORDS[1]]
        return await asyncio.gather(*map(model.ascore, records), return_exceptions=True)

    first, error, last = asyncio.run(mixed())
    assert [first, last] == expected[:2] and isinstance(error, RecordError)


def test_a_task_that_is_cancelled_takes_its_request_back(held: tuple[RewardModel, GatedEngine]) -> None:
    model, engine = held

    async def cancelled() -> None:
        task = asyncio.create_task(model.ascore({"input_ids": [40, 41, 42]}))
        while not model.waiting_tokens:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.waiting_tokens == 0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(model.ascore({"input_ids": [40, 41, 42]}), 0.01)
        with pytest.raises(DeadlineExceeded):
            await model.ascore({"input_ids": [40, 41, 42]}, deadline=0.01)
        await asyncio.to_thread(wait_until, lambda: model.waiting_tokens == 0)

    asyncio.run(cancelled())
    engine.permit(1000)
    assert model.drain(PATIENCE)
    assert not any(40 in one for one in engine.passes)


def test_a_task_that_is_cancelled_before_its_record_is_tokenized(
    held: tuple[RewardModel, GatedEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, engine = held
    at_it, go_on = threading.Event(), threading.Event()
    encode = model._submitter._encode

    def slow(*given: Any) -> Any:
        at_it.set()
        assert go_on.wait(PATIENCE)
        return encode(*given)

    monkeypatch.setattr(model._submitter, "_encode", slow)

    async def cancelled() -> None:
        tasks = [asyncio.create_task(model.ascore({"input_ids": [40]})) for _ in range(20)]
        await asyncio.to_thread(at_it.wait, PATIENCE)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        go_on.set()

    asyncio.run(cancelled())
    engine.permit(1000)
    model.close()
    assert not any(40 in one for one in engine.passes)


def test_draining_lets_what_was_taken_finish(held: tuple[RewardModel, GatedEngine]) -> None:
    model, engine = held
    future = model.submit(RECORDS[1])
    assert model.drain(timeout=0) is False
    with pytest.raises(RewardModelError, match="drained"):
        model.submit(RECORDS[2])
    with pytest.raises(RewardModelError, match="drained"):
        asyncio.run(model.ascore(RECORDS[2]))
    engine.permit(1000)
    assert model.drain() is True
    assert future.result(0) == model.score(RECORDS[1:2])[0]


def test_a_model_that_never_submits_has_no_thread_and_nothing_to_drain(bundle: Path) -> None:
    before = runtime_threads()
    with RewardModel.load(bundle, device="ort-cpu") as model:
        model.score(RECORDS[:3])
        assert runtime_threads() == before
        assert model.drain() and model.waiting_tokens == 0
    with pytest.raises(RewardModelError, match="closed"):
        model.submit(RECORDS[0])
    with pytest.raises(RewardModelError, match="closed"):
        asyncio.run(model.ascore(RECORDS[0]))


def test_a_model_that_is_dropped_finishes_what_it_took(bundle: Path) -> None:
    before = runtime_threads()
    model = RewardModel.load(bundle, device="ort-cpu")
    expected = model.score(RECORDS)
    futures = [model.submit(record) for record in RECORDS]
    del model
    gc.collect()
    assert [future.result(PATIENCE) for future in futures] == expected
    wait_until(lambda: runtime_threads() == before)


SCRIPT = """
import os, sys
from rmruntime import RewardModel, RewardModelError

model = RewardModel.load(sys.argv[1], device="ort-cpu")
record = {"prompt": "What?", "response": "This. " * 50}
model.submit(record).result()
child = os.fork() if hasattr(os, "fork") else None
if child == 0:
    try:
        model.submit(record)
    except RewardModelError as error:
        print("child:", error, flush=True)
    sys.stdout.flush()
    os._exit(0)  # as multiprocessing does: the engine would fail in the fork's exit
if child:
    assert os.waitpid(child, 0)[1] == 0
futures = [model.submit(record) for _ in range(500)]
print("parent:", len(futures))
"""


def test_a_fork_is_refused_and_an_exit_waits_for_no_queue(bundle: Path) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "parent: 500" in done.stdout and ("child: this RewardModel was loaded in process" in done.stdout)
