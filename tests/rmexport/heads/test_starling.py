"""Starling's value head: backbone under `transformer.`, read before the first id 0."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from conversations import ragged_records
from reward_trunks import HIDDEN, check_gate, check_head, normal, reward_trunk, spec_of
from tiny_checkpoints import TinyCheckpoint, sequence_classifier

PAD_ID = 0


def checkpoint_in(folder: Path, prefixes: Sequence[str] = ("transformer.",)) -> TinyCheckpoint:
    config = {"architectures": ["LlamaForSequenceClassification"]}  # a class of its own of this name
    return reward_trunk(folder, {"v_head.weight": normal(1, HIDDEN)}, config, prefixes=prefixes)


def score(state: torch.Tensor) -> torch.Tensor:
    """`rewards = self.v_head(hidden_states).squeeze(-1)`"""
    return torch.nn.functional.linear(state, normal(1, HIDDEN)).squeeze(-1)


def position(ids: Sequence[int]) -> int:
    """`c_inds = (input_ids == PAD_ID).nonzero(); rewards[c_inds[0] - 1]`, of the last token where there is none."""
    found = (torch.tensor(ids) == PAD_ID).nonzero()
    return (int(found[0]) if len(found) else len(ids)) - 1


@pytest.mark.parametrize("prefixes", [("transformer.",), ("transformer.", "model.model.")], ids=["34B", "7B"])
def test_backbone_under_transformer(tmp_path: Path, prefixes: Sequence[str]) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", prefixes)
    assert spec_of(checkpoint).head_name == "starling"
    check_head(checkpoint, tmp_path / "bundle", score, position=position)


def test_first_pad_id_inside_the_text_ends_the_reading(tmp_path: Path) -> None:
    records = [r | {"response": r["response"] + "! the" * (i % 2)} for i, r in enumerate(ragged_records(17))]
    checkpoint = checkpoint_in(tmp_path / "checkpoint")  # "!" is id 0 of this tokenizer
    check_head(checkpoint, tmp_path / "bundle", score, records=records, position=position)


def test_the_same_class_name_with_a_score_is_transformers(tmp_path: Path) -> None:
    checkpoint = sequence_classifier(tmp_path / "checkpoint")
    assert checkpoint.model.config.architectures == ["LlamaForSequenceClassification"]
    assert spec_of(checkpoint).head_name == "sequence_classification"


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(checkpoint_in(tmp_path / "checkpoint"), tmp_path / "bundle", dtype)
