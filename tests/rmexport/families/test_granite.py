"""Granite in every engine: factors for embeddings, attention and what each block adds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GraniteForCausalLM

from conversations import ragged_records
from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import ExportOptions, export
from rmruntime import RewardModel, ScoreOptions
from rmruntime.records import parse_record

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.6,
    "logits_scaling": 8.0,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        pytest.param({"attention_bias": True, "mlp_bias": True, "residual_multiplier": 1.0}, marks=pytest.mark.ladder),
    ],
)
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "granite", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "granite", TINY), tmp_path / "b", dtype)


def test_logits_are_divided_as_the_class_divides_them(tmp_path: Path) -> None:
    """A probability of two tokens would be another one."""
    checkpoint = family_checkpoint(tmp_path / "c", "granite", TINY)
    file = checkpoint.folder / "model.safetensors"
    tensors = {name: value for name, value in load_file(file).items() if name != "score.weight"}
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(recipe="nemotron"))
    published = GraniteForCausalLM.from_pretrained(checkpoint.folder, dtype=torch.float32).eval()
    records = ragged_records(3)
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as model, torch.no_grad():
        requests = model.encode([parse_record(record) for record in records], ScoreOptions())
        for score, request in zip(model.score(records), requests, strict=True):
            logits = published(input_ids=torch.tensor([list(request[0].ids)])).logits
            assert score.value == pytest.approx(logits[0, -1, 0].item(), abs=1e-4)
