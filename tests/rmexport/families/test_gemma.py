"""Gemma in every engine: norms by 1 + weight, scaled embeddings, tanh-GELU whatever the config calls it."""

from pathlib import Path
from typing import Any

import pytest

from config_files import rewrite_config
from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import ExportOptions, UnsupportedModel, export
from rmexport.families import family_of

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize("fields", [{}, {"attention_bias": True, "num_key_value_heads": 4}])
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "gemma", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "gemma", TINY), tmp_path / "b", dtype)


def test_published_gelu_is_the_tanh_form(tmp_path: Path) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", "gemma", TINY)
    old = {"hidden_act": "gelu", "hidden_activation": None, "rope_theta": 10_000.0, "rope_scaling": None}
    rewrite_config(checkpoint, old, without=("rope_parameters",))
    check_scores(checkpoint, tmp_path / "b")
    config: Any = family_of(old | {"model_type": "gemma"}).read_config(TINY | old | {"vocab_size": 100})
    assert config.activation == "gelu_tanh"  # the two forms differ by less than the scores' tolerance


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ({"use_bidirectional_attention": True}, "supported with causal attention"),
    ],
)
def test_refusals(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", "gemma", TINY)
    rewrite_config(checkpoint, fields)
    with pytest.raises(UnsupportedModel, match=message):
        export(str(checkpoint.folder), tmp_path / "b", ExportOptions())
