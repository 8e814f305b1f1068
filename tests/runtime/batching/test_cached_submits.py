"""Submitted records and a prefix cache: the same scores, what one pass brings the next reads, and what is counted."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gated_engine import GatedEngine
from rmexport import export
from rmruntime import BackendError, RewardModel, ScoreOptions
from rmruntime.backends import choose_engine
from rmruntime.bundle import Bundle
from rmruntime.executors import DirectExecutor
from rmruntime.options import EngineOptions
from tiny_checkpoints import gated

FEW_BYTES, MANY_BYTES = 60_000, 20_000_000  # evicts all the time, and never
WORDS = "the answer is good number bad 1 + 2 helpful sum honest step".split()
PROMPT = "the answer is good number " * 10


@pytest.fixture(scope="module")
def bundle(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Reads two tokens, of which one may be in what is cached."""

    def make(folder: Path) -> None:
        export(str(gated(folder / "c").folder), folder / "b")

    return made_once("cached-submits", make) / "b"


def conversations(seed: int, count: int = 40) -> list[dict[str, Any]]:
    """Solutions that grow, fork and come again, some with several last steps, and others of their own."""
    rng = random.Random(seed)
    known: list[tuple[str, str]] = []
    made: list[dict[str, Any]] = []
    for _ in range(count):
        prompt, text = rng.choice(known) if known and rng.random() < 0.8 else (" ".join(rng.choices(WORDS, k=30)), "")
        texts = [text + " " + " ".join(rng.choices(WORDS, k=rng.choice((1, 2, 16, 30)))) for _ in range(3)]
        record = {"responses": texts} if rng.random() < 0.2 else {"response": texts[0] if rng.random() < 0.9 else text}
        made.append({"prompt": prompt, **record})
        known = [*known[-6:], (prompt, texts[0][-600:])]
    return made


def gated_cache(bundle: Path) -> tuple[RewardModel, GatedEngine]:
    """A model on ort-cpu with a prefix cache, whose passes wait to be let go."""
    opened, options = Bundle.open(bundle), EngineOptions(device="ort-cpu")
    choice = choose_engine(opened, options)
    engine = GatedEngine(choice.module.load(opened, choice.graph.of_past(), choice.pinned(options)))
    executor = DirectExecutor(engine)
    executor.cache_bytes = MANY_BYTES
    return RewardModel(opened, executor), engine


@pytest.mark.parametrize("device", ["ort-cpu", "openvino"])
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), limit=st.sampled_from([FEW_BYTES, MANY_BYTES]), budget=st.sampled_from([64, None]))
def test_scores_are_those_of_score_without_a_cache(
    bundle: Path, device: str, seed: int, limit: int, budget: int | None
) -> None:
    records, options = conversations(seed), ScoreOptions(max_batch_tokens=budget)
    with RewardModel.load(bundle, device=device) as plain:
        expected = plain.score(records)
    with RewardModel.load(bundle, device=device, prefix_cache=limit) as model, ThreadPoolExecutor(4) as threads:
        one_by_one = [model.submit(record, options).result() for record in records[:10]]
        futures = list(threads.map(lambda record: model.submit(record, options), records))
        batch = threads.submit(model.score, records, options)
        assert one_by_one == expected[:10]
        assert [future.result() for future in futures] == expected
        assert batch.result() == expected


def test_a_request_computes_only_what_no_earlier_one_brought(bundle: Path) -> None:
    with RewardModel.load(bundle, device="ort-cpu", prefix_cache=MANY_BYTES) as model:
        futures = []
        for answer in ("1", "1 + 2", "1 + 2 is good", "1 + 2 is good"):
            futures.append(model.submit({"prompt": PROMPT, "response": answer}))
            futures[-1].result()
        total = model.statistics
    first, *others = [future.statistics for future in futures]
    assert first.cached == 0
    assert first.computed == first.given
    assert all(0 < one.computed < 20 and one.computed + one.cached == one.given for one in others)
    assert total.cached == sum(one.cached for one in others)
    assert total.computed == first.computed + sum(one.computed for one in others)


def test_calls_and_requests_have_one_cache(bundle: Path) -> None:
    record = {"prompt": PROMPT, "response": "1 + 2"}
    with RewardModel.load(bundle, device="ort-cpu", prefix_cache=MANY_BYTES) as model:
        model.score([record])
        future = model.submit({"prompt": PROMPT, "response": "1 + 2 is good"})
        future.result()
        assert future.statistics.cached > 40
        before = model.statistics.cached
        model.score([{"prompt": PROMPT, "response": "1 + 2 is good number"}])
        assert model.statistics.cached > before + 40


@pytest.mark.parametrize("fails", [False, True])
def test_a_pass_packed_during_another_reads_what_that_one_brings(bundle: Path, fails: bool) -> None:
    """And computes it where the other fails."""
    records = [{"prompt": PROMPT, "response": answer} for answer in ("1", "good", "bad", "sum")]
    with RewardModel.load(bundle, device="ort-cpu") as plain:
        expected = plain.score(records)
    model, engine = gated_cache(bundle)
    with model:
        if fails:
            engine.faults[0] = BackendError("the engine failed")
        options = ScoreOptions(max_batch_tokens=8)  # one request a pass
        futures = [model.submit(record, options) for record in records]
        engine.wait_for_pass()
        engine.permit(1000)
        found = [future.exception() or future.result() for future in futures]
        assert [str(one) for one in found[:1]] == (["the engine failed"] if fails else [str(expected[0])])
        assert found[1:] == expected[1:]
        whole = [n for n, ids in enumerate(engine.passes) if len(ids) > 40]
        assert whole == ([0, 1] if fails else [0])
