"""Ministral 3 in every engine: queries scaled by their position, with conversations longer than the original length."""

from pathlib import Path
from typing import Any

import pytest

from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import CheckpointError
from rmexport.families import family_of

YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 64.0,
    "original_max_position_embeddings": 32,
    "llama_4_scaling_beta": 0.5,
}
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rope_parameters": YARN,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize("fields", [{}, pytest.param({"sliding_window": 24}, marks=pytest.mark.ladder)])
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "ministral3", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "ministral3", TINY), tmp_path / "b", dtype)


def test_without_rope_parameters() -> None:
    """Those of Ministral3Config."""
    raw = {name: value for name, value in TINY.items() if name != "rope_parameters"}
    raw |= {"model_type": "ministral3", "vocab_size": 100, "max_position_embeddings": 262_144}
    config: Any = family_of(raw).read_config(raw)
    rope = config.ropes[0]
    assert (rope.kind, rope.theta, rope.factor, rope.query_scaling) == ("yarn", 1e6, 16, 0.1)
    assert (rope.original_max_position_embeddings, config.norm_eps) == (16_384, 1e-5)


@pytest.mark.parametrize("without", ["llama_4_scaling_beta", "original_max_position_embeddings"])
def test_query_scaling_must_be_complete(without: str) -> None:
    rope = {name: value for name, value in YARN.items() if name != without} | {"rope_type": "default"}
    raw = {**TINY, "model_type": "ministral3", "vocab_size": 100, "rope_parameters": rope}
    with pytest.raises(CheckpointError, match="scales its queries"):
        family_of(raw).read_config(raw)
