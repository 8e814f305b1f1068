"""Recipes of single reward models against the published way of building their input, on random weights."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from conversations import messages_of, ragged_records, step_records
from rmexport import ExportOptions, export
from rmruntime import RewardModel, Score
from tiny_checkpoints import TinyCheckpoint, causal_lm
from tiny_tokenizer import BOS

TOLERANCE = 1e-4  # absolute, on scores of magnitude about 1: the parity gate's fp32 rule
TAG = " \n\n\n\n"


def logits(checkpoint: TinyCheckpoint, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = checkpoint.model(torch.tensor([ids])).logits[0]
    return found


def test_versaprm_judges_every_step_at_its_tag(tmp_path: Path) -> None:
    """github.com/UW-Madison-Lee-Lab/VersaPRM: the question and " \\n\\n", every step and its tag, '+' against '-'."""
    checkpoint = causal_lm(tmp_path / "c")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(recipe="versaprm"))
    records = step_records(6, seed=4)
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as model:
        scores = model.score(records)
    for record, score in zip(records, scores, strict=True):
        assert isinstance(score, Score) and score.steps is not None
        expected = []
        for count in range(1, len(record["steps"]) + 1):
            text = record["prompt"] + " \n\n" + "".join(step + TAG for step in record["steps"][:count])
            ids = tokenizer(BOS + text, add_special_tokens=False)["input_ids"]
            good, bad = logits(checkpoint, ids)[-1, [10, 12]]
            expected.append(torch.sigmoid(good - bad).item())
        np.testing.assert_allclose(score.steps, expected, atol=TOLERANCE)


def test_nemotron_on_llama_3_3_has_no_bos(tmp_path: Path) -> None:
    """The raw logit of id 0 at the last token of the template's own ids."""
    checkpoint = causal_lm(tmp_path / "c")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(recipe="nemotron-3.3"))
    records = ragged_records(6)
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as model:
        found = [score.value for score in model.score(records)]
    expected = []
    for record in records:
        text = tokenizer.apply_chat_template(messages_of(record), tokenize=False).removeprefix(BOS)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        expected.append(logits(checkpoint, ids)[-1, 0].item())
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    assert np.std(expected) > 0.05
