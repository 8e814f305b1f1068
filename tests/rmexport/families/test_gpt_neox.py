"""GPT-NeoX in every engine: fused projections by head, partial rope, both residual forms, biases on and off."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport.errors import UnsupportedModel
from rmexport.families import family_of

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 2048,
}


def test_scores(tmp_path: Path) -> None:
    """The defaults: parallel residual, biases, a quarter of each head rotated."""
    check_scores(family_checkpoint(tmp_path / "c", "gpt_neox", TINY), tmp_path / "b")


def test_sequential_residual_without_attention_biases(tmp_path: Path) -> None:
    fields = TINY | {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_fast"}
    check_scores(family_checkpoint(tmp_path / "c", "gpt_neox", fields), tmp_path / "b")


def test_published_spelling_and_saved_buffers(tmp_path: Path) -> None:
    """Configs of 2022 have rotary_pct and rotary_emb_base; their checkpoints hold masks and frequencies."""
    rope = {"rope_type": "default", "rope_theta": 25_000.0, "partial_rotary_factor": 0.5}
    checkpoint = family_checkpoint(tmp_path / "c", "gpt_neox", TINY | {"rope_parameters": rope})
    path = checkpoint.folder / "config.json"
    raw = json.loads(path.read_text())
    del raw["rope_parameters"], raw["attention_bias"]
    path.write_text(json.dumps(raw | {"rotary_pct": 0.5, "rotary_emb_base": 25_000}))
    tensors = load_file(checkpoint.folder / "model.safetensors")
    for i in range(TINY["num_hidden_layers"]):
        name = f"gpt_neox.layers.{i}.attention"
        tensors[f"{name}.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
        tensors[f"{name}.masked_bias"] = torch.tensor(-1e9)
        tensors[f"{name}.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, checkpoint.folder / "model.safetensors")
    check_scores(checkpoint, tmp_path / "b")


def test_a_number_of_key_heads_means_nothing_here() -> None:
    """transformers' class has as many as query heads, whatever else config.json says."""
    raw = TINY | {"model_type": "gpt_neox", "vocab_size": 300, "num_key_value_heads": 2}
    assert family_of(raw).read_config(raw) == family_of(raw).read_config(raw | {"num_key_value_heads": 4})


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "gpt_neox", TINY), tmp_path / "b", dtype)


def test_other_activations_are_refused() -> None:
    raw = TINY | {"model_type": "gpt_neox", "vocab_size": 300, "hidden_act": "relu"}
    with pytest.raises(UnsupportedModel, match="hidden_act is 'relu'"):
        family_of(raw).read_config(raw)
