"""Encoder classifiers against transformers, on random weights: scores of pairs through both engines.

The bundles are traced by the older transformers that optimum-onnx takes; the expected scores come from this one's.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from conversations import text
from rmexport.verify.options import VerifyOptions
from rmexport.verify.run import verify
from rmruntime import RewardModel, Score, ScoreOptions, Statistics

TOLERANCE = 1e-4  # the parity gate's fp32 rule, for scores of magnitude about 1
NARROW = 16  # matrices with fewer rows or columns stay in fp32
FAMILIES = (
    "bert",
    "deberta-v2",
    "deberta-v3",
    "distilbert",
    "electra",
    "modernbert-cls",
    "modernbert-mean",
    "roberta",
    "xlm-roberta",
)
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Ragged pairs; the longest is beyond DeBERTa's buckets and ModernBERT's window."""
    rng = random.Random(seed)
    return [{"prompt": text(rng, 1, 25), "response": text(rng, 1, 25)} for _ in range(count)]


def reference(folder: Path, rounded: torch.dtype | None = None) -> Any:
    """transformers' classifier in fp32, its large matrices rounded as the bundle's are."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if rounded is not None and parameter.ndim == 2 and min(parameter.shape) >= NARROW:
            parameter.data = parameter.data.to(rounded).float()
    return model


def logits(folder: Path, model: Any, records: list[dict[str, str]]) -> torch.Tensor:
    """[records, labels], one unpadded pair at a time, tokenized by transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    names = ["input_ids"]
    if model.config.model_type in ("bert", "electra"):
        names.append("token_type_ids")
    rows = []
    for record in records:
        encoded = tokenizer(record["prompt"], record["response"], return_tensors="pt", return_token_type_ids=True)
        with torch.no_grad():
            rows.append(model(**{name: encoded[name] for name in names}).logits[0])
    return torch.stack(rows)


def values(model: RewardModel, records: list[dict[str, str]], options: ScoreOptions | None = None) -> list[float]:
    scores = model.score(records, options)
    assert all(isinstance(score, Score) for score in scores)
    return [score.value for score in scores]


@pytest.mark.parametrize("device", ["ort-cpu", "openvino"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_as_transformers_in_fp32(encoders: Path, family: str, device: str) -> None:
    expected = logits(encoders / family, reference(encoders / family), pairs(17))[:, 0]
    assert expected.std() > 0.1  # else nothing is compared
    with RewardModel.load(encoders / f"{family}.fp32", device=device) as model:
        for count in (1, 3, 8, 17):
            assert values(model, pairs(17)[:count]) == pytest.approx(expected[:count].tolist(), abs=TOLERANCE)


@pytest.mark.parametrize("device", ["ort-cpu", "openvino"])
@pytest.mark.parametrize(
    ("family", "dtype"),
    [("deberta-v3", "bf16"), ("deberta-v3", "fp16"), ("modernbert-cls", "bf16"), ("bert", "fp16"), ("roberta", "bf16")],
)
def test_16_bit_weights_are_rounded_and_computed_with_in_fp32(
    encoders: Path, family: str, dtype: str, device: str
) -> None:
    folder = encoders / family
    expected = logits(folder, reference(folder, HALVES[dtype]), pairs(8))[:, 0]
    exact = logits(folder, reference(folder), pairs(8))[:, 0]
    assert (expected - exact).abs().max() > TOLERANCE  # the rounding shows
    with RewardModel.load(encoders / f"{family}.{dtype}", device=device) as model:
        assert model.manifest.dtype == dtype and model.precision == "fp32"
        assert values(model, pairs(8)) == pytest.approx(expected.tolist(), abs=TOLERANCE)


@pytest.mark.parametrize("device", ["ort-cpu", pytest.param("openvino", marks=pytest.mark.ladder)])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_does_not_depend_on_the_batch(encoders: Path, family: str, device: str) -> None:
    records = pairs(17, seed=1)
    with RewardModel.load(encoders / f"{family}.fp32", device=device) as model:
        alone = [values(model, [record])[0] for record in records]
        assert values(model, records) == pytest.approx(alone, abs=1e-5)
        assert values(model, records, ScoreOptions(max_batch_tokens=200)) == pytest.approx(alone, abs=1e-5)


def test_submitted_records_share_padded_passes(encoders: Path) -> None:
    """Their own tokens count for each; what fills the rows up is nobody's."""
    records = pairs(17, seed=1)
    with RewardModel.load(encoders / "bert.fp32", device="ort-cpu") as model:
        expected = values(model, records)
        before = model.statistics
        futures = [model.submit(record) for record in records]
        scores = [future.result(60) for future in futures]
        assert [score.value for score in scores if isinstance(score, Score)] == pytest.approx(expected, abs=1e-5)
        own, whole = sum((future.statistics for future in futures), Statistics()), model.statistics
        assert own.computed == own.given == before.given and whole.computed == 2 * own.computed


def test_short_weights_of_memory(encoders: Path) -> None:
    """With weights widened in every pass rather than at load, the scores are the same."""
    for name in ("deberta-v3.bf16", "modernbert-cls.bf16"):
        with RewardModel.load(encoders / name, device="ort-cpu") as model:
            expected = values(model, pairs(5))
        with RewardModel.load(encoders / name, device="ort-cpu", memory_limit=0) as model:
            assert values(model, pairs(5)) == pytest.approx(expected, abs=1e-5)


def test_truncated_and_longest_pairs(encoders: Path) -> None:
    for family in ("bert", "roberta", "modernbert-cls", "deberta-v3"):
        with RewardModel.load(encoders / f"{family}.fp32") as model:
            limit = model.manifest.backbone.max_length
            assert limit == 160
            [longest] = model.score([{"prompt": "user" * 300, "response": "good"}], ScoreOptions(truncate="right"))
            assert isinstance(longest, Score) and longest.tokens == limit and longest.truncated > 0


def test_several_labels(encoders: Path) -> None:
    expected = logits(encoders / "labels", reference(encoders / "labels"), pairs(3))
    with RewardModel.load(encoders / "labels.good") as model:
        for score, row in zip(model.score(pairs(3)), expected.tolist(), strict=True):
            assert isinstance(score, Score) and score.rewards is not None
            assert list(score.rewards) == ["bad", "fair", "good"]
            assert list(score.rewards.values()) == pytest.approx(row, abs=TOLERANCE)
            assert score.value == pytest.approx(row[2], abs=TOLERANCE)
    with RewardModel.load(encoders / "labels.all") as model:
        [score] = model.score(pairs(1))
        assert isinstance(score, Score) and score.value is None and score.rewards is not None
        assert list(score.rewards.values()) == pytest.approx(expected[0].tolist(), abs=TOLERANCE)


@pytest.mark.parametrize(
    "name",
    [
        *("bert.fp16", "modernbert-cls.bf16"),
        *(pytest.param(name, marks=pytest.mark.ladder) for name in ("deberta-v3.bf16", "labels.good")),
    ],
)
def test_the_parity_gate(encoders: Path, tmp_path: Path, name: str) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in pairs(40)))
    options = VerifyOptions(data=str(data), write=False)
    report = verify(encoders / name, str(encoders / name.partition(".")[0]), options)
    assert report.passed and report.sequences == 40
