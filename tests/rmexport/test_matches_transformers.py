"""Exported bundles against transformers in fp32 on random weights: every rope kind, bias, head, ragged batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoTokenizer, LlamaForSequenceClassification

from conversations import messages_of, ragged_records, step_records
from rmexport import ExportOptions, export
from rmruntime import RewardModel, Score, ScoreOptions
from tiny_checkpoints import TinyCheckpoint, TinyShape, causal_lm, sequence_classifier

TOLERANCE = 1e-4  # absolute, on scores of magnitude about 1: the parity gate's fp32 rule
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHAPES = {
    "plain": TinyShape(),
    "linear": TinyShape(extra={"rope_scaling": {"type": "linear", "factor": 3.0}}),
    "llama3": TinyShape(extra={"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 32}}),
    "yarn": TinyShape(
        extra={"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}
    ),
    "rope_parameters": TinyShape(extra={"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "attention_bias": TinyShape(extra={"attention_bias": True}),
    "mlp_bias": TinyShape(extra={"mlp_bias": True}),
    "head_dim": TinyShape(extra={"head_dim": 32}),
    "multi_head": TinyShape(num_key_value_heads=4),
    "multi_query": TinyShape(num_key_value_heads=1),
    "one_layer": TinyShape(num_hidden_layers=1),
    "resized_vocabulary": TinyShape(extra={"vocab_size": 384}),
}


def token_ids(checkpoint: TinyCheckpoint, messages: list[dict[str, str]]) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    found: Any = tokenizer.apply_chat_template(messages, return_tensors="pt")
    return found if isinstance(found, torch.Tensor) else found["input_ids"]  # 4.57 gives the tensor itself


def scored(bundle: Path, records: list[dict[str, Any]]) -> list[Score]:
    with RewardModel.load(bundle, device="ort-cpu") as model:
        scores = model.score(records)
    assert all(isinstance(score, Score) for score in scores)
    return scores  # type: ignore[return-value] # no pairs in these records


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sequence_classifier(tmp_path: Path, shape: TinyShape) -> None:
    if "rope_parameters" in shape.extra and transformers.__version__ < "5":
        pytest.skip("transformers 4 does not know this spelling, so it is no reference for it")
    checkpoint = sequence_classifier(tmp_path / "checkpoint", shape)
    records = ragged_records(8)
    with torch.no_grad():
        expected = [checkpoint.model(token_ids(checkpoint, messages_of(r))).logits.item() for r in records]
    export(str(checkpoint.folder), tmp_path / "bundle")
    found = [score.value for score in scored(tmp_path / "bundle", records)]
    np.testing.assert_allclose(np.array(found, float), expected, atol=TOLERANCE)
    assert np.std(expected) > 0.05  # random weights, but not all the same score


@pytest.mark.parametrize("count", [1, 3, 8, 17])
def test_batch_sizes(tmp_path: Path, count: int) -> None:
    checkpoint = sequence_classifier(tmp_path / "checkpoint", SHAPES["llama3"], labels=3)
    records = ragged_records(count, seed=count)
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(score_label="label_1"))
    with torch.no_grad():
        expected = [checkpoint.model(token_ids(checkpoint, messages_of(r))).logits[0].tolist() for r in records]
    for record_score, logits in zip(scored(tmp_path / "bundle", records), expected, strict=True):
        assert record_score.rewards is not None
        np.testing.assert_allclose(list(record_score.rewards.values()), logits, atol=TOLERANCE)
        assert record_score.value == record_score.rewards["label_1"]


@pytest.mark.parametrize("tied", [False, True])
def test_outcome_reward_model(tmp_path: Path, tied: bool) -> None:
    """orm_evaluate.py: logits at position -3 of the conversation that ends in the reply '+'."""
    checkpoint = causal_lm(tmp_path / "checkpoint", tied=tied)
    records = [r for r in ragged_records(12, seed=3) if isinstance(r["prompt"], str)]
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="rlhflow-orm-deepseek"))
    for record, score in zip(records, scored(tmp_path / "bundle", records), strict=True):
        turns = [
            {"role": "user", "content": record["prompt"] + " " + record["response"]},
            {"role": "assistant", "content": "+"},
        ]
        with torch.no_grad():
            logits = checkpoint.model(token_ids(checkpoint, turns)).logits[0, -3, [10, 12]]
        assert score.value == pytest.approx(torch.softmax(logits, 0)[0].item(), abs=TOLERANCE)
        assert score.logit == pytest.approx((logits[0] - logits[1]).item(), abs=TOLERANCE)


def test_process_reward_model(tmp_path: Path) -> None:
    """prm_evaluate.py: a growing conversation, one forward a step, position -3 each time."""
    checkpoint = causal_lm(tmp_path / "checkpoint")
    records = step_records(8, seed=4)
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="rlhflow-prm"))
    aggregates: dict[Any, Callable[[Any], Any]] = {
        "mean": np.mean,
        "min": np.min,
        "last": lambda x: x[-1],
        "prod": np.prod,
    }
    with RewardModel.load(tmp_path / "bundle") as model:
        scores = {name: model.score(records, ScoreOptions(aggregate=name)) for name in aggregates}
    for i, record in enumerate(records):
        turns: list[dict[str, str]] = []
        expected = []
        for k, step in enumerate(record["steps"]):
            content = record["prompt"] + " " + step if k == 0 else step
            turns += [{"role": "user", "content": content}, {"role": "assistant", "content": "+"}]
            with torch.no_grad():
                logits = checkpoint.model(token_ids(checkpoint, turns)).logits[0, -3, [10, 12]]
            expected.append(torch.softmax(logits, 0)[0].item())
        for name, aggregate in aggregates.items():
            score = scores[name][i]
            assert isinstance(score, Score) and score.steps is not None
            np.testing.assert_allclose(score.steps, expected, atol=TOLERANCE)
            assert score.value == pytest.approx(float(aggregate(expected)), abs=TOLERANCE)


def test_steps_of_a_sequence_head_are_partial_answers(tmp_path: Path) -> None:
    """Seed 1's published use: running text + candidate, scored as if finished."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    export(str(checkpoint.folder), tmp_path / "bundle", ExportOptions(recipe="mahalo"))
    steps = ["Hello world.", " The sum is 3.", " Step"]
    with RewardModel.load(tmp_path / "bundle") as model:
        score = model.score_steps("What?", steps)
    expected = []
    for k in range(1, 4):
        turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "".join(steps[:k])}]
        with torch.no_grad():
            expected.append(checkpoint.model(token_ids(checkpoint, turns)).logits.item())
    assert score.steps is not None
    np.testing.assert_allclose(score.steps, expected, atol=TOLERANCE)


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_checkpoints_widen_exactly(tmp_path: Path, dtype: str, torch_dtype: torch.dtype) -> None:
    """16-bit weights computed in fp32 equal transformers on the widened weights."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint", dtype=torch_dtype)
    records = ragged_records(5)
    manifest = export(str(checkpoint.folder), tmp_path / "bundle")
    assert manifest.dtype == dtype
    wide = LlamaForSequenceClassification.from_pretrained(checkpoint.folder, dtype=torch.float32)
    with torch.no_grad():
        expected = [wide(token_ids(checkpoint, messages_of(r))).logits.item() for r in records]
    found = [score.value for score in scored(tmp_path / "bundle", records)]
    np.testing.assert_allclose(np.array(found, float), expected, atol=TOLERANCE)


def test_no_pad_token_scores_the_last_token(tmp_path: Path) -> None:
    """Seed 4's config may lack pad_token_id: transformers then scores position -1 of a single conversation."""
    checkpoint = sequence_classifier(tmp_path / "checkpoint", pad=False)
    [record] = ragged_records(1)
    export(str(checkpoint.folder), tmp_path / "bundle")
    with torch.no_grad():
        expected = checkpoint.model(token_ids(checkpoint, messages_of(record))).logits.item()
    [score] = scored(tmp_path / "bundle", [record])
    assert score.value == pytest.approx(expected, abs=TOLERANCE)
