"""Phi-3 in every engine: fused projections, windows, partial and long rope, and its configs' old spellings."""

import json
from pathlib import Path
from typing import Any

import pytest

from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport.errors import UnsupportedModel
from rmexport.families import family_of
from rmexport.graph.partial_rotary import rotary_order

TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
ORIGINAL = 96  # tokens: some of the conversations are longer, some shorter


def longrope(rotated: int) -> dict[str, Any]:
    """Factors that differ by frequency, as published ones do."""
    return {
        "rope_type": "longrope",
        "short_factor": [1.0 + 0.05 * i for i in range(rotated // 2)],
        "long_factor": [2.0 + 1.5 * i for i in range(rotated // 2)],
    }


def respell(folder: Path) -> None:
    """config.json as releases of 2024 have it: rope_theta beside rope_scaling."""
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    rope = raw.pop("rope_parameters")
    raw |= {"rope_theta": rope["rope_theta"], "partial_rotary_factor": rope["partial_rotary_factor"]}
    raw["rope_scaling"] = {"type": "longrope", **{name: rope[name] for name in ("short_factor", "long_factor")}}
    path.write_text(json.dumps(raw))


def test_scores(tmp_path: Path) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "phi3", TINY), tmp_path / "b")


def test_window_shorter_than_the_text(tmp_path: Path) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "phi3", TINY | {"sliding_window": 24}), tmp_path / "b")


def test_partial_long_rope_around_the_original_length(tmp_path: Path) -> None:
    """Phi-4-mini's: 3/4 of each head, other frequencies beyond the original length, cos and sin scaled."""
    fields = {"rope_parameters": {**longrope(12), "partial_rotary_factor": 0.75}}
    more = {"original_max_position_embeddings": ORIGINAL, "num_key_value_heads": 4}
    checkpoint = family_checkpoint(tmp_path / "c", "phi3", TINY | fields | more)
    respell(checkpoint.folder)
    check_scores(checkpoint, tmp_path / "b")


@pytest.mark.parametrize("kind", ["su", "yarn"])
def test_first_names_of_the_long_rope(kind: str) -> None:
    raw = TINY | {"model_type": "phi3", "vocab_size": 300, "rope_theta": 1e4, "original_max_position_embeddings": 96}
    rope = {name: value for name, value in longrope(16).items() if name != "rope_type"}
    found, expected = (
        family_of(raw).read_config(raw | {"rope_scaling": {"type": name, **rope}}) for name in (kind, "longrope")
    )
    assert found == expected
    assert found.rope_length == ORIGINAL


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    rope = {"rope_parameters": longrope(16), "original_max_position_embeddings": ORIGINAL}
    fields = rope | {"intermediate_size": 128, "sliding_window": 200}
    check_parity_gate(family_checkpoint(tmp_path / "c", "phi3", TINY | fields), tmp_path / "b", dtype)


def test_the_original_length_is_phi3s_own_default() -> None:
    """Phi3Config has 4096 where config.json has nothing, whatever stands among the rope's parameters."""
    rope = longrope(16) | {"original_max_position_embeddings": 77}
    raw = TINY | {"model_type": "phi3", "vocab_size": 300, "max_position_embeddings": 8192, "rope_scaling": rope}
    config: Any = family_of(raw).read_config(raw)
    assert config.rope_length == 4096
    assert (config.ropes[0].factor, config.norm_eps) == (2.0, 1e-5)


def test_other_activations_are_refused() -> None:
    raw = TINY | {"model_type": "phi3", "vocab_size": 300, "hidden_act": "gelu"}
    with pytest.raises(UnsupportedModel, match="hidden_act is 'gelu'"):
        family_of(raw).read_config(raw)


def test_an_odd_rotated_part_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="5 of each head's 16 features"):
        rotary_order(2, 16, 5)
