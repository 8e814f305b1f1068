"""Llama in every engine; its rope kinds, biases and head shapes are in tests/rmexport/test_matches_transformers.py."""

from pathlib import Path
from typing import Any

import pytest

from family_checkpoints import check_parity_gate, check_scores, family_checkpoint

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}


def test_scores(tmp_path: Path) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "llama", TINY), tmp_path / "b")


@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp16", marks=pytest.mark.ladder)])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "llama", TINY, seed=2), tmp_path / "b", dtype)


@pytest.mark.parametrize("kind", ["dynamic"])
def test_frequencies_that_depend_on_the_length(tmp_path: Path, kind: str) -> None:
    """Conversations up to the original length and beyond it, in one batch."""
    rope = {"rope_scaling": {"rope_type": kind, "factor": 4.0}, "max_position_embeddings": 96}
    check_scores(family_checkpoint(tmp_path / "c", "llama", TINY | rope), tmp_path / "b")
