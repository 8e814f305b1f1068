"""SmolLM3 in every engine: layers without rotary embedding, and windows in them."""

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
    "max_position_embeddings": 2048,
}


@pytest.mark.parametrize(
    "fields",
    [{}, {"no_rope_layers": [0, 1, 1, 0], "use_sliding_window": True, "sliding_window": 24, "attention_bias": True}],
)
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "smollm3", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "smollm3", TINY), tmp_path / "b", dtype)


@pytest.mark.parametrize("given", [[1, 0, 1], [1, 0, 1, 2], "1010"])
def test_layers_without_a_rope_must_be_named_by_0_and_1(given: Any) -> None:
    raw = {**TINY, "model_type": "smollm3", "vocab_size": 100, "no_rope_layers": given}
    with pytest.raises(CheckpointError, match=r"no_rope_layers is .* for each of 4 layers"):
        family_of(raw).read_config(raw)


def test_every_fourth_layer_is_without_a_rope() -> None:
    raw = {**TINY, "model_type": "smollm3", "vocab_size": 100, "num_hidden_layers": 9}
    config: Any = family_of(raw).read_config(raw)
    assert config.unrotated == {3, 7} and config.ropes[0].theta == 2_000_000
