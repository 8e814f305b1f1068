"""Original lengths of rotary kinds, by transformers' precedence of the places that state them."""

import math
from typing import Any

import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rmexport.checkpoint.rope_config import read_rope
from rmexport.errors import CheckpointError

KINDS: dict[str, dict[str, Any]] = {
    "dynamic": {"factor": 4.0},
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0},
    "longrope": {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
}
NAME = "original_max_position_embeddings"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("places", [(), ("inside",), ("beside",), ("inside", "beside")])
def test_original_length(kind: str, places: tuple[str, ...]) -> None:
    """Inside the rotary parameters, beside them in config.json, or nowhere."""
    scaling: dict[str, Any] = {"rope_type": kind, **KINDS[kind]} | ({NAME: 128} if "inside" in places else {})
    raw: dict[str, Any] = {"rope_theta": 1e4, "max_position_embeddings": 512, "rope_scaling": scaling}
    raw |= {NAME: 64} if "beside" in places else {}
    config = LlamaConfig(**raw | {"rope_scaling": dict(scaling)}, hidden_size=64, num_attention_heads=4)
    _, scale = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=1024)  # which is where config's own length counts
    expected = config.max_position_embeddings if kind == "dynamic" else config.rope_parameters[NAME]
    found = read_rope(raw)
    assert found.original_max_position_embeddings == expected
    if kind == "longrope":
        assert found.factor is not None
        assert math.sqrt(1 + math.log(max(1.0, found.factor)) / math.log(expected)) == pytest.approx(scale)


def test_null_among_the_parameters_leaves_what_stands_beside_them() -> None:
    parameters = {"rope_type": "default", "rope_theta": None}
    assert read_rope({"rope_theta": 5e5, "rope_parameters": parameters}).theta == 5e5


@pytest.mark.parametrize("share", ["half", 0, 1.5])
def test_no_share_of_a_head(share: object) -> None:
    with pytest.raises(CheckpointError, match="partial_rotary_factor is"):
        read_rope({"partial_rotary_factor": share}, partial=True)
