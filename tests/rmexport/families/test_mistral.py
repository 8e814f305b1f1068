"""Mistral in every engine, with and without its sliding window."""

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
    "sliding_window": 24,  # far shorter than most conversations
}


@pytest.mark.parametrize("fields", [{}, {"sliding_window": None, "head_dim": 32}])
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "mistral", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "mistral", TINY), tmp_path / "b", dtype)


def test_published_spelling(tmp_path: Path) -> None:
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}
    checkpoint = family_checkpoint(tmp_path / "c", "mistral", TINY | rope)
    rewrite_config(checkpoint, {"rope_theta": 300.0}, without=("rope_parameters", "head_dim"))
    check_scores(checkpoint, tmp_path / "b")


def test_a_window_that_is_absent_is_not_one_that_is_null() -> None:
    raw = {name: value for name, value in TINY.items() if name != "sliding_window"}
    raw |= {"model_type": "mistral", "vocab_size": 100}
    windows = [family_of(c).read_config(c).windows for c in (raw, raw | {"sliding_window": None})]  # type: ignore[attr-defined]
    assert windows == [(4096,) * 3, (None,) * 3]
