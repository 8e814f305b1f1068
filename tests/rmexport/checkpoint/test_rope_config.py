"""Rotary parameters come out the same from every spelling that transformers reads."""

from typing import Any

import pytest
from transformers import LlamaConfig

from rmexport.checkpoint.rope_config import RopeConfig, read_rope
from rmexport.errors import CheckpointError, UnsupportedModel

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
EXPECTED = RopeConfig(
    kind="llama3",
    theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)
OLD_TYPE = {("type" if name == "rope_type" else name): value for name, value in LLAMA3.items()}


@pytest.mark.parametrize(
    "raw",
    [
        {"rope_theta": 500000, "rope_scaling": LLAMA3},
        {"rope_theta": 500000.0, "rope_scaling": OLD_TYPE},
        {"rope_theta": 500000.0, "rope_parameters": LLAMA3},
        {"rope_parameters": {**LLAMA3, "rope_theta": 500000.0}},
        {"rope_theta": 1.0, "rope_parameters": {**LLAMA3, "rope_theta": 500000.0}, "rope_scaling": None},
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default"}},
    ],
)
def test_one_form(raw: dict[str, Any]) -> None:
    assert read_rope(raw) == EXPECTED


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"rope_scaling": None},
        {"rope_parameters": None, "rope_theta": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000}},
        {"rope_theta": 10000, "rope_scaling": {"type": "default"}},
    ],
)
def test_default(raw: dict[str, Any]) -> None:
    assert read_rope(raw) == RopeConfig(kind="default", theta=10000.0)
    assert read_rope({}, default_theta=1e6).theta == 1e6


def test_yarn_and_its_optional_numbers() -> None:
    scaling = {"type": "yarn", "factor": 4, "mscale": 0.7, "mscale_all_dim": 0, "beta_fast": 16, "truncate": False}
    rope = read_rope({"rope_theta": 1e6, "max_position_embeddings": 32768, "rope_scaling": scaling})
    assert (rope.factor, rope.original_max_position_embeddings, rope.beta_fast, rope.beta_slow) == (4.0, 32768, 16, 1)
    assert (rope.mscale, rope.mscale_all_dim, rope.truncate) == (0.7, None, False)
    assert rope.attention_factor is None


@pytest.mark.parametrize(
    "scaling",
    [
        LLAMA3,
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "attention_factor": 1.25},
        {"rope_type": "default"},
    ],
)
def test_what_transformers_makes_of_old_spellings(scaling: dict[str, Any]) -> None:
    """The config as transformers rewrites it on saving gives what the old one gave."""
    raw = {"rope_theta": 500000.0, "max_position_embeddings": 16384}
    rewritten = LlamaConfig(**raw, rope_scaling=dict(scaling)).to_dict()
    assert read_rope(rewritten) == read_rope({**raw, "rope_scaling": scaling})


def test_per_layer_type() -> None:
    raw = {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    }
    assert read_rope(raw, layer_type="full_attention") == RopeConfig(kind="linear", theta=1e6, factor=8.0)
    assert read_rope(raw, layer_type="sliding_attention") == RopeConfig(kind="default", theta=1e4)
    with pytest.raises(UnsupportedModel, match="full_attention, sliding_attention"):
        read_rope(raw)
    with pytest.raises(UnsupportedModel, match="not for other"):
        read_rope(raw, layer_type="other")


@pytest.mark.parametrize("kind", ["helical", "mrope", 7, ["llama3"]])
def test_unknown_kinds_name_the_known_ones(kind: Any) -> None:
    with pytest.raises(UnsupportedModel, match="default, linear, llama3, yarn, dynamic, longrope"):
        read_rope({"rope_scaling": {"type": kind, "factor": 2.0}})


def test_kinds_that_depend_on_the_length_say_from_where() -> None:
    dynamic = read_rope({"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 4096})
    assert (dynamic.kind, dynamic.switch_length) == ("dynamic", 4096)
    raw = {"max_position_embeddings": 8192, "original_max_position_embeddings": 2048, "rope_scaling": {"type": "su"}}
    with pytest.raises(CheckpointError, match="short_factor"):
        read_rope(raw)
    factors = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 3]}
    found = read_rope(raw | {"rope_scaling": {"type": "su", **factors}})
    assert (found.kind, found.switch_length, found.factor) == ("longrope", 2048, 4.0)
    assert (found.short_factors, found.long_factors) == ((1.0, 1.5), (2.0, 3.0))
    assert read_rope({"rope_scaling": {"type": "linear", "factor": 2.0}}).switch_length is None


def test_partial_rotation_is_refused() -> None:
    for raw in ({"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.25}}):
        with pytest.raises(UnsupportedModel, match="partial_rotary_factor"):
            read_rope(raw)
    assert read_rope({"partial_rotary_factor": 1.0}).kind == "default"


def test_all_faults_at_once() -> None:
    scaling = {"rope_type": "llama3", "factor": "eight", "low_freq_factor": -1, "beta_fast": True, "truncate": "no"}
    with pytest.raises(CheckpointError) as caught:
        read_rope({"rope_scaling": scaling, "rope_theta": float("nan")})
    for name in ("factor", "low_freq_factor", "high_freq_factor is missing", "beta_fast", "truncate", "rope_theta"):
        assert name in str(caught.value)
    assert "original_max_position_embeddings is missing" in str(caught.value)
    with pytest.raises(CheckpointError, match="object or null"):
        read_rope({"rope_scaling": "linear"})
