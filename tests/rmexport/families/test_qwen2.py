"""Qwen2 and Qwen2.5 in every engine: biases, windows of the upper layers, YaRN past the original length."""

from pathlib import Path
from typing import Any

import pytest

from config_files import rewrite_config
from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import CheckpointError, ExportOptions, UnsupportedModel, export

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}
# What transformers before 4.53 did not write, and what it wrote where later versions have `rope_parameters`.
NEW_FIELDS = ("layer_types", "rope_parameters")


@pytest.mark.parametrize("fields", [{}, WINDOWS])
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "qwen2", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "qwen2", TINY), tmp_path / "b", dtype)


@pytest.mark.parametrize("used", [True, False])
def test_published_windows_count_only_where_they_are_used(tmp_path: Path, used: bool) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", "qwen2", TINY | (WINDOWS if used else {}))
    old = WINDOWS | {"use_sliding_window": used, "rope_theta": 10_000.0}
    rewrite_config(checkpoint, old, without=NEW_FIELDS)
    check_scores(checkpoint, tmp_path / "b")


def test_published_yarn_past_the_original_length(tmp_path: Path) -> None:
    """Qwen's instructions add it to a config.json whose max_position_embeddings stays the original length."""
    yarn = {"factor": 4.0, "original_max_position_embeddings": 96}
    rope = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **yarn}, "max_position_embeddings": 96}
    checkpoint = family_checkpoint(tmp_path / "c", "qwen2", TINY | rope)
    rewrite_config(checkpoint, {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", **yarn}}, without=NEW_FIELDS)
    check_scores(checkpoint, tmp_path / "b")


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"layer_types": ["sliding_attention"] * 3}, CheckpointError, "sliding_window is null or unused"),
        ({"layer_types": ["chunked_attention"] * 3}, CheckpointError, "expected 3 of full_attention or sliding"),
        ({"layer_types": ["full_attention"]}, CheckpointError, "expected 3 of"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "hidden_act is 'gelu'; a qwen2 backbone is supported with silu"),
    ],
)
def test_refusals(tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", "qwen2", TINY)
    rewrite_config(checkpoint, fields)
    with pytest.raises(error, match=message):
        export(str(checkpoint.folder), tmp_path / "b", ExportOptions())
