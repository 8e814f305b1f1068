"""EXAONE 4 in every engine: full layers without rotary embedding, and models without windows with it."""

from pathlib import Path
from typing import Any

import pytest

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


@pytest.mark.parametrize("fields", [{}, {"sliding_window": None, "layer_types": ["full_attention"] * 4}])
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "exaone4", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "exaone4", TINY), tmp_path / "b", dtype)


def test_published_spelling() -> None:
    """A pattern of letters counts for nothing beside layer types."""
    types = ["full_attention", *["sliding_attention"] * 3]
    raw = {**TINY, "model_type": "exaone4", "vocab_size": 100, "sliding_window_pattern": "LLLG", "layer_types": types}
    config: Any = family_of(raw).read_config(raw)
    assert (config.windows, config.unrotated, config.norm_eps) == ((None, 24, 24, 24), {0}, 1e-5)
    with pytest.raises(CheckpointError, match="sliding_window_pattern is 'LLLG'"):
        family_of(raw).read_config({**raw, "layer_types": None})
