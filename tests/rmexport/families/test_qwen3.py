"""Qwen3 in every engine: norms of each head, heads wider than the hidden size divided, windows, biases."""

from pathlib import Path
from typing import Any

import pytest

from config_files import rewrite_config
from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport.families import family_of

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
}
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 24}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        WINDOWS | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
        {"attention_bias": True},
    ],
)
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "qwen3", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "qwen3", TINY), tmp_path / "b", dtype)


def test_published_spelling(tmp_path: Path) -> None:
    """As Qwen3's own config.json: one base beside a null `rope_scaling`, and a window's first layer without types."""
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    checkpoint = family_checkpoint(tmp_path / "c", "qwen3", TINY | WINDOWS | {"max_window_layers": 1} | rope)
    old = {"rope_theta": 1_000_000, "rope_scaling": None}
    rewrite_config(checkpoint, old, without=("rope_parameters", "layer_types"))
    check_scores(checkpoint, tmp_path / "b")


def test_a_head_has_128_features_unless_stated() -> None:
    raw = {name: value for name, value in TINY.items() if name != "head_dim"}
    raw |= {"model_type": "qwen3", "vocab_size": 100}
    config: Any = family_of(raw).read_config(raw)
    assert (config.head_dim, config.attention_scale) == (128, 128**-0.5)
