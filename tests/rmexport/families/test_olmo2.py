"""OLMo 2 in every engine: norms after attention and MLP, and over the whole width of queries and keys."""

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
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 4, "attention_bias": True}])
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "olmo2", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "olmo2", TINY), tmp_path / "b", dtype)


def test_published_spelling(tmp_path: Path) -> None:
    """No key heads, as the first releases: as many as query heads; and the family's own epsilon."""
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}, "num_key_value_heads": None}
    checkpoint = family_checkpoint(tmp_path / "c", "olmo2", TINY | rope)
    old = {"rope_theta": 500_000, "rope_scaling": None}
    rewrite_config(checkpoint, old, without=("rope_parameters", "rms_norm_eps", "num_key_value_heads"))
    check_scores(checkpoint, tmp_path / "b")
    raw = {**TINY, "model_type": "olmo2", "vocab_size": 100, "num_key_value_heads": None}
    config: Any = family_of(raw).read_config(raw)
    assert (config.num_key_value_heads, config.norm_eps) == (4, 1e-5)  # another epsilon hardly moves tiny scores
