"""The trained example: its accuracy survives every export, and its gate listens to the prompt."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexport import ExportOptions, export
from rmexport.checkpoint import open_checkpoint
from rmexport.spec import read_spec
from rmexport.verify.reference import reference_scores
from rmruntime import RewardModel, Score, ScoreOptions
from rmruntime.records import Request
from rmruntime.records.reader import read_records
from rmruntime.sequences import TokenSequence

EXAMPLES = Path(__file__).parent.parent / "examples"
CHECKPOINT = EXAMPLES / "armorm-tiny"
DTYPES: Any = ("fp32", "bf16", "fp16")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("example")
    for dtype in DTYPES:
        export(str(CHECKPOINT), folder / dtype, ExportOptions(dtype=dtype))
    return {dtype: folder / dtype for dtype in DTYPES}


def requests(name: str) -> list[Request]:
    found = [request for _, request in read_records(EXAMPLES / name)]
    assert all(isinstance(request, Request) for request in found)
    return found  # type: ignore[return-value] # just checked


def accuracy(bundle: Path, name: str) -> float:
    with RewardModel.load(bundle) as model:
        results = model.run(requests(name), ScoreOptions()).results
    right = [a.value > b.value for a, b in results]  # type: ignore[union-attr,misc] # all are pairs
    return float(np.mean(right))


@pytest.fixture(scope="module")
def transformers_accuracy(bundles: dict[str, Path]) -> float:
    """Of transformers in fp32, one conversation at a time."""
    with RewardModel.load(bundles["fp32"]) as model:
        encoded = model.encode(requests("pairs.jsonl"), ScoreOptions())
    sequences: list[TokenSequence] = [s for pair in encoded for s in pair]  # type: ignore[union-attr]
    source = open_checkpoint(str(CHECKPOINT))
    scores = reference_scores(source, read_spec(source, ExportOptions()), sequences, "fp32").outputs["score"]
    return float(np.mean(scores[::2] > scores[1::2]))


def test_the_checkpoint_is_small_and_named() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 8e6
    spec = read_spec(open_checkpoint(str(CHECKPOINT)), ExportOptions())
    assert spec.head_name == "gated_objectives" and spec.dtype == "bf16"
    labels = spec.head.outputs[1].labels
    assert labels is not None and len(labels) >= 5 and not any(name.startswith("objective_") for name in labels)


@pytest.mark.parametrize("dtype", ["fp32", *(pytest.param(dtype, marks=pytest.mark.ladder) for dtype in DTYPES[1:])])
def test_held_out_pairs(bundles: dict[str, Path], transformers_accuracy: float, dtype: str) -> None:
    assert transformers_accuracy >= 0.90
    assert abs(accuracy(bundles[dtype], "pairs.jsonl") - transformers_accuracy) <= 0.005


def test_the_same_two_answers_turn_with_the_prompt(bundles: dict[str, Path]) -> None:
    couples = requests("gate_pairs.jsonl")
    assert len(couples) >= 100
    for first, second in zip(couples[::2], couples[1::2], strict=True):
        answers = [[c.messages[-1].content for c in r.conversations if c.messages] for r in (first, second)]
        assert answers[0] == answers[1][::-1]
    assert accuracy(bundles["bf16"], "gate_pairs.jsonl") >= 0.90


def test_the_gate_weighs_what_was_asked_for(bundles: dict[str, Path]) -> None:
    answer = "Air scatters blue light more than red light."
    prompts = ("Why is the sky blue? Keep it brief.", "Why is the sky blue? Explain in detail.")
    with RewardModel.load(bundles["bf16"]) as model:
        brief, detailed = model.score([{"prompt": p, "response": answer} for p in prompts])
    assert isinstance(brief, Score) and isinstance(detailed, Score)
    assert brief.gating is not None and detailed.gating is not None
    assert brief.value is not None and detailed.value is not None and brief.value > detailed.value
    assert brief.gating["style-brevity"] > detailed.gating["style-brevity"]
    assert detailed.gating["content-detail"] > brief.gating["content-detail"]
