"""Ministral in every engine: windows in those layers that the config says."""

from pathlib import Path
from typing import Any

import pytest

from family_checkpoints import check_parity_gate, check_scores, family_checkpoint

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 24,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize(
    "fields", [{}, pytest.param({"layer_types": ["sliding_attention", "full_attention"] * 2}, marks=pytest.mark.ladder)]
)
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "ministral", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "ministral", TINY), tmp_path / "b", dtype)
