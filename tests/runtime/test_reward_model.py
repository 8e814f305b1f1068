"""The public class: scores independent of the batch, thread safety, every record kind, clean closing."""

import importlib.util
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversations import ragged_records, text
from rmexport import ExportOptions, export
from rmruntime import (
    InputError,
    InputTooLong,
    OptionError,
    RewardModel,
    RewardModelError,
    Score,
    ScoreOptions,
    Statistics,
)
from rmruntime.backends import backends
from tiny_checkpoints import TinyShape, causal_lm, gated, sequence_classifier


@pytest.fixture(scope="module")
def armorm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("armorm")
    export(str(gated(folder / "checkpoint").folder), folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def model(armorm: Path) -> RewardModel:
    return RewardModel.load(armorm, device="cpu")


@pytest.fixture(scope="module", params=["ort-cpu fp32", "openvino fp32", "openvino bf16"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    """A model on every CPU engine, in each of its arithmetics."""
    device, dtype = request.param.split()
    if importlib.util.find_spec(backends()[device].PACKAGE) is None:
        pytest.skip(f"{device} is not installed")
    folder = tmp_path_factory.mktemp("engine")
    export(str(gated(folder / "checkpoint").folder), folder / "bundle", ExportOptions(dtype=dtype))
    return RewardModel.load(folder / "bundle", device=device)


def plain(result: Any) -> Score:
    assert isinstance(result, Score)
    return result


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), count=st.integers(2, 20), budget=st.sampled_from([1, 200, 700, 4096]))
def test_a_score_does_not_depend_on_its_batch(engine: RewardModel, seed: int, count: int, budget: int) -> None:
    """Bitwise: alone, in any batch, with or without a shared prefix."""
    records = ragged_records(count, seed)
    together = engine.score(records, ScoreOptions(max_batch_tokens=budget))
    shuffled = random.Random(seed).sample(range(count), count)
    again = engine.score([records[i] for i in shuffled])
    for i, record in enumerate(records):
        [alone] = engine.score([record])
        assert together[i] == alone == again[shuffled.index(i)]


@pytest.mark.parametrize("shape", [TinyShape(num_key_value_heads=4), TinyShape(num_key_value_heads=1)])
@pytest.mark.parametrize("memory_limit", [None, 0])
def test_nor_with_other_heads_or_with_little_memory(tmp_path: Path, shape: TinyShape, memory_limit: int | None) -> None:
    export(str(sequence_classifier(tmp_path / "c", shape).folder), tmp_path / "b", ExportOptions(dtype="bf16"))
    records = [*ragged_records(13, 5), {"input_ids": [7]}, {"input_ids": [7, 8]}]
    with RewardModel.load(tmp_path / "b", memory_limit=memory_limit) as model:
        together = model.score(records)
        assert together == [model.score([record])[0] for record in records]


def test_little_memory_gives_the_same_scores(armorm: Path, model: RewardModel) -> None:
    records = ragged_records(9)
    with RewardModel.load(armorm, memory_limit=0) as frugal:
        for a, b in zip(model.score(records), frugal.score(records), strict=True):
            assert plain(a).value == pytest.approx(plain(b).value, abs=1e-5)


def test_many_threads(model: RewardModel) -> None:
    batches = [ragged_records(4, seed) for seed in range(12)]
    expected = [model.score(batch) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(model.score, batches)) == expected


def test_pairs_and_candidates_are_lists_inside(model: RewardModel) -> None:
    pair = {"prompt": "What?", "chosen": "Hello world.", "rejected": "x"}
    singles = [plain(s) for s in model.score([{"prompt": "What?", "response": r} for r in ("Hello world.", "x")])]
    assert model.score([pair]) == [singles]
    assert model.score_candidates("What?", ["Hello world.", "x"]) == singles


def test_shared_prompts_are_computed_once(model: RewardModel) -> None:
    from rmruntime.records import parse_record

    prompt = text(random.Random(0), 30, 30)
    answers = [f"{i} x" for i in range(8)]
    run = model.run([parse_record({"prompt": prompt, "responses": answers})], ScoreOptions())
    assert run.statistics.passes == 1
    assert run.statistics.computed < run.statistics.given / 3


def test_statistics_add_up_over_passes(model: RewardModel) -> None:
    from rmruntime.records import parse_record

    requests = [parse_record(record) for record in ragged_records(9)]
    run = model.run(requests, ScoreOptions(max_batch_tokens=1))
    alone = [model.run([request], ScoreOptions(max_batch_tokens=1)).statistics for request in requests]
    assert run.statistics == sum(alone, Statistics())
    assert 0 < run.statistics.computed <= run.statistics.given and run.statistics.padded >= 0


def test_over_long_input_is_an_error_or_cut_on_request(model: RewardModel) -> None:
    record = {"prompt": "What?", "response": "the sum " * 300}
    with pytest.raises(InputTooLong, match="record 0"):
        model.score([record])
    cut = plain(model.score([record], ScoreOptions(truncate="right"))[0])
    assert cut.truncated > 0 and cut.tokens == model.manifest.backbone.max_length
    with pytest.raises(InputError):  # the left cut takes the gate's pattern: an error, not a wrong score
        model.score([record], ScoreOptions(truncate="left"))


def test_bad_records_name_their_index(model: RewardModel) -> None:
    good = {"prompt": "a", "response": "b"}
    with pytest.raises(InputError, match="record 1"):
        model.score([good, {"prompt": "a", "answer": "b"}])
    with pytest.raises(InputError, match="record 2"):
        model.score([good, good, {"input_ids": [10**6]}])
    assert model.score([]) == []


def test_special_tokens_in_content_are_flagged_or_refused(model: RewardModel) -> None:
    record = {"prompt": "a <|eot_id|> b", "response": "c"}
    assert "<|eot_id|>" in plain(model.score([record])[0]).flags[0]
    with pytest.raises(InputError, match="eot_id"):
        model.score([record], ScoreOptions(strict_content=True))


def test_closing(armorm: Path) -> None:
    with RewardModel.load(armorm) as model:
        model.score([{"prompt": "a", "response": "b"}])
    with pytest.raises(RewardModelError, match="closed"):
        model.score([{"prompt": "a", "response": "b"}])
    model.close()


def test_process_rewards_of_many_lengths_in_one_batch(tmp_path: Path) -> None:
    export(str(causal_lm(tmp_path / "c").folder), tmp_path / "b", ExportOptions(recipe="rlhflow-prm"))
    steps = [["a"], ["a", "b", "c"], ["x y z"] * 7]
    with RewardModel.load(tmp_path / "b") as model:
        together = model.score([{"prompt": "q", "steps": s} for s in steps])
        for found, own in zip(together, steps, strict=True):
            assert len(plain(found).steps or ()) == len(own)
            assert found == model.score_steps("q", own)


@pytest.mark.parametrize(
    "fields", [{"aggregate": "median"}, {"truncate": "middle"}, {"max_batch_tokens": 0}, {"max_length": -1}]
)
def test_options_are_checked_at_the_door(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(fields))):
        ScoreOptions(**fields)


def test_a_left_cut_keeps_the_bos_that_the_template_writes(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "c")
    export(str(checkpoint.folder), tmp_path / "b")
    record = {"prompt": "What?", "response": "the sum " * 300}
    with RewardModel.load(tmp_path / "b") as model:
        from rmruntime.records import parse_record

        [[cut]] = model.encode([parse_record(record)], ScoreOptions(truncate="left", max_length=50))  # type: ignore[misc]
        [[whole]] = model.encode([parse_record(record)], ScoreOptions(max_length=10**6, truncate="right"))  # type: ignore[misc]
    assert cut.ids[0] == checkpoint.tokenizer.bos_id and len(cut.ids) == 50
    assert cut.ids[-1] == whole.ids[-1] or whole.truncated


@pytest.mark.parametrize("lone", ["text", b"text", None, 5, {"a": "b"}, {"a", "b"}])
def test_a_lone_text_is_no_list_of_answers_or_steps(model: RewardModel, lone: Any) -> None:
    """A string is a sequence too: of characters, each of which would get a score."""
    with pytest.raises(InputError, match=r"responses: found .*expected a list of strings"):
        model.score_candidates("a", lone)
    with pytest.raises(InputError, match=r"steps: found .*expected a list of strings"):
        model.score_steps("a", lone)


def test_any_ordered_answers_are_taken(model: RewardModel) -> None:
    expected = model.score_candidates("a", ["b", "c"])
    assert model.score_candidates("a", ("b", "c")) == model.score_candidates("a", iter("bc")) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("records", ["text", {"prompt": "a", "response": "b"}, None])
def test_one_record_is_no_list_of_records(model: RewardModel, records: Any) -> None:
    with pytest.raises(InputError, match=r"records: found .*expected a list of records"):
        model.score(records)


def test_options_of_another_type(model: RewardModel) -> None:
    options: Any = {"truncate": "left"}
    with pytest.raises(OptionError, match=r"options is .*expected a ScoreOptions"):
        model.score([{"prompt": "a", "response": "b"}], options)
