"""Qwen3-MoE in every engine: routed and dense layers, shares as they are or normalized, windows and biases."""

import json
from pathlib import Path
from typing import Any

import pytest

from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport.errors import CheckpointError
from rmexport.families import family_of

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
}


def test_scores(tmp_path: Path) -> None:
    """As published: all layers routed, shares normalized, heads wider than hidden / heads."""
    checkpoint = family_checkpoint(tmp_path / "c", "qwen3_moe", TINY)
    path = checkpoint.folder / "config.json"
    raw = json.loads(path.read_text())
    theta = raw.pop("rope_parameters")["rope_theta"]
    path.write_text(json.dumps(raw | {"rope_theta": theta, "rope_scaling": None, "num_experts": 16}))
    check_scores(checkpoint, tmp_path / "b")


def test_dense_layers_plain_shares_windows_and_biases(tmp_path: Path) -> None:
    mixed = {"num_hidden_layers": 4, "decoder_sparse_step": 2, "mlp_only_layers": [3], "norm_topk_prob": False}
    more = {"use_sliding_window": True, "sliding_window": 24, "attention_bias": True}
    check_scores(family_checkpoint(tmp_path / "c", "qwen3_moe", TINY | mixed | more), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    fields = TINY | {"mlp_only_layers": [1]}
    check_parity_gate(family_checkpoint(tmp_path / "c", "qwen3_moe", fields), tmp_path / "b", dtype)


def test_which_layers_are_routed() -> None:
    raw = TINY | {"model_type": "qwen3_moe", "vocab_size": 300, "num_hidden_layers": 6}
    config: Any = family_of(raw).read_config(raw | {"decoder_sparse_step": 2, "mlp_only_layers": [1]})
    assert config.routed == (False, False, False, True, False, True)
    with pytest.raises(CheckpointError, match="mlp_only_layers is 'all'"):
        family_of(raw).read_config(raw | {"mlp_only_layers": "all"})
