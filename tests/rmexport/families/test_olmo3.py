"""OLMo 3 in every engine: windows in three of four layers, and YaRN in the others alone."""

from pathlib import Path
from typing import Any

import pytest

from config_files import rewrite_config
from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import CheckpointError
from rmexport.families import family_of

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "sliding_window": 24,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize("fields", [{}])
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "olmo3", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "olmo3", TINY), tmp_path / "b", dtype)


def test_published_spelling(tmp_path: Path) -> None:
    """`rope_scaling` and `rope_theta` are full attention's; Olmo3Config gives sliding attention its own base."""
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 1.2}
    ropes = {"full_attention": {**yarn, "rope_theta": 300.0}, "sliding_attention": {"rope_type": "default"}}
    checkpoint = family_checkpoint(tmp_path / "c", "olmo3", TINY | {"rope_parameters": ropes})
    old = {"rope_theta": 300.0, "rope_scaling": yarn}
    rewrite_config(checkpoint, old, without=("rope_parameters", "layer_types", "rms_norm_eps"))
    check_scores(checkpoint, tmp_path / "b")
    raw = {**TINY, "model_type": "olmo3", "vocab_size": 100, **old}
    config: Any = family_of(raw).read_config(raw)
    assert config.windows == (24, 24, 24, None) and config.norm_eps == 1e-5
    assert [(rope.kind, rope.theta) for rope in config.ropes[2:]] == [("default", 500_000), ("yarn", 300)]


def test_flat_rope_parameters_are_refused() -> None:
    raw = {**TINY, "model_type": "olmo3", "vocab_size": 100, "rope_parameters": {"rope_theta": 1e4}}
    with pytest.raises(CheckpointError, match="expected full_attention and sliding_attention"):
        family_of(raw).read_config(raw)
