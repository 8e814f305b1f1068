"""Process reward models of TRL's PRMTrainer: two labels, read at the separator behind each step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForTokenClassification

from conversations import step_records
from reward_trunks import TOLERANCE, check_gate, check_steps, plain_ids, spec_of
from rmexport.errors import UnsupportedModel
from tiny_checkpoints import TinyCheckpoint, shaken
from tiny_tokenizer import build_tokenizer


def checkpoint_in(folder: Path, *, labels: int = 2, bias: bool = True) -> TinyCheckpoint:
    """transformers' own class; `token_classification_bias` is what its generic head asks the config for."""
    tokenizer = build_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size, num_labels=labels, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id, pad_token_id=tokenizer.pad_id,
    )  # fmt: skip
    model = shaken(LlamaForTokenClassification(config), torch.float32)
    if not bias:
        model.score = torch.nn.Linear(64, labels, bias=False)
    model.save_pretrained(folder)
    return TinyCheckpoint(folder, tokenizer, model)


def prm_trainer_ids(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """`PRMTrainer.tokenize_row`: the ids, and where each step's label is."""
    ids = [checkpoint.tokenizer.bos_id, *plain_ids(checkpoint, record["prompt"])]
    separator, ends = plain_ids(checkpoint, "\n"), []
    for step in record["steps"]:
        ids += [*plain_ids(checkpoint, step), *separator]
        ends.append(len(ids) - 1)
    return ids, ends


def step_logits(checkpoint: TinyCheckpoint, record: Mapping[str, Any]) -> torch.Tensor:
    ids, ends = prm_trainer_ids(checkpoint, record)
    with torch.no_grad():
        logits: torch.Tensor = checkpoint.model(torch.tensor([ids])).logits[0, ends]
    return logits


@pytest.mark.parametrize("bias", [True, False])
def test_steps_against_transformers(tmp_path: Path, bias: bool) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", bias=bias)
    assert spec_of(checkpoint).head_name == "token_classification"
    records = step_records(17)
    expected = [step_logits(checkpoint, record).softmax(-1)[:, 1].tolist() for record in records]
    assert np.std(np.concatenate(expected)) > 0.02
    check_steps(checkpoint, tmp_path / "bundle", records, expected)


def test_the_other_name_of_the_layer_and_the_reference(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint")
    path = checkpoint.folder / "model.safetensors"
    weights = {name.replace("score.", "classifier."): value for name, value in load_file(path).items()}
    save_file(weights, path)
    records = step_records(17)
    expected = [step_logits(checkpoint, record).softmax(-1)[:, 1].tolist() for record in records]
    check_steps(checkpoint, tmp_path / "bundle", records, expected)
    spec, (ids, ends) = spec_of(checkpoint), prm_trainer_ids(checkpoint, records[0])
    with torch.no_grad():
        states = checkpoint.model.model(torch.tensor([ids])).last_hidden_state[0, ends]
    own = spec.head.reference({"score": states}, weights)
    logits = step_logits(checkpoint, records[0])
    np.testing.assert_allclose(own["score"], expected[0], atol=TOLERANCE)
    np.testing.assert_allclose(own["logit"], logits[:, 1] - logits[:, 0], atol=TOLERANCE)


def test_a_bias_and_the_class_tell_it_from_a_sequence_classifier(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", bias=False)
    path = checkpoint.folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    assert spec_of(checkpoint).head_name == "sequence_classification"


def test_more_labels_are_no_process_reward(tmp_path: Path) -> None:
    checkpoint = checkpoint_in(tmp_path / "checkpoint", labels=3)
    with pytest.raises(UnsupportedModel, match="3 labels"):
        spec_of(checkpoint)


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_gate(checkpoint_in(tmp_path / "checkpoint"), tmp_path / "bundle", dtype)
