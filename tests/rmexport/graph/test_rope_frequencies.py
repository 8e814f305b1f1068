"""Rotary frequencies against transformers' own functions."""

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from rmexport.checkpoint.rope_config import read_rope
from rmexport.errors import UnsupportedModel
from rmexport.graph.rope_frequencies import rope_frequencies

KINDS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048},
    "yarn mscale": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.8,
        "mscale_all_dim": 0.6, "beta_fast": 16.0, "beta_slow": 2.0,
    },
    "yarn attention factor": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, "attention_factor": 1.7,
        "truncate": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_transformers(kind: str, theta: float) -> None:
    original = KINDS[kind].get("original_max_position_embeddings", 4096)
    raw = {
        "hidden_size": 512, "num_attention_heads": 4, "head_dim": 128, "rope_theta": theta,
        "max_position_embeddings": int(original * KINDS[kind].get("factor", 1)), "rope_scaling": dict(KINDS[kind]),
    }  # fmt: skip
    module = LlamaRotaryEmbedding(LlamaConfig(**raw))
    found, scaling = rope_frequencies(read_rope(raw), 128)
    np.testing.assert_allclose(found, module.inv_freq.numpy(), rtol=3e-7)
    assert scaling == pytest.approx(module.attention_scaling, rel=1e-7)


def test_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(UnsupportedModel, match="llama3"):
        rope_frequencies(read_rope({"rope_theta": 1e4, "rope_scaling": {"rope_type": "helical"}}), 64)
