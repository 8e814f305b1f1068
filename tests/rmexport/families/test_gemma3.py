"""Gemma 3 in every engine: ropes and windows by kind of layer, and the text part of checkpoints that also see."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from config_files import rewrite_config
from family_checkpoints import check_parity_gate, check_scores, family_checkpoint
from rmexport import CheckpointError, ExportOptions, UnsupportedModel, export
from rmexport.families import family_of
from tiny_checkpoints import TinyCheckpoint
from tiny_tokenizer import build_tokenizer

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2048,
}
FULL, LOCAL = "full_attention", "sliding_attention"
TINY = SIZES | {
    "num_hidden_layers": 3,
    "query_pre_attn_scalar": 20,
    "sliding_window": 24,
    "final_logit_softcapping": 0.1,  # below the scores: it must not touch them
    "layer_types": [LOCAL, FULL, LOCAL],
}
LINEAR = {"rope_type": "linear", "factor": 8.0}
ROPES = {FULL: {"rope_theta": 1e6, **LINEAR}, LOCAL: {"rope_type": "default", "rope_theta": 300.0}}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "image_size": 8,
    "patch_size": 4,
}


@pytest.mark.parametrize("fields", [{}, {"attention_bias": True, "rope_parameters": ROPES}])
def test_scores(tmp_path: Path, fields: dict[str, Any]) -> None:
    check_scores(family_checkpoint(tmp_path / "c", "gemma3_text", TINY | fields), tmp_path / "b")


@pytest.mark.ladder
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_parity_gate(tmp_path: Path, dtype: str) -> None:
    check_parity_gate(family_checkpoint(tmp_path / "c", "gemma3_text", TINY), tmp_path / "b", dtype)


def test_published_spelling(tmp_path: Path) -> None:
    """`rope_scaling` is the full layers' alone; every layer slides but each second one."""
    checkpoint = family_checkpoint(tmp_path / "c", "gemma3_text", TINY | {"rope_parameters": ROPES})
    old = {"rope_theta": 1e6, "rope_scaling": LINEAR, "rope_local_base_freq": 300.0, "sliding_window_pattern": 2}
    rewrite_config(checkpoint, old, without=("rope_parameters", "layer_types"))
    check_scores(checkpoint, tmp_path / "b")


def seeing(folder: Path) -> TinyCheckpoint:
    tokenizer = build_tokenizer(folder)
    text = TINY | {"vocab_size": tokenizer.vocab_size, "pad_token_id": tokenizer.pad_id}
    return family_checkpoint(
        folder,
        "gemma3",
        {"text_config": text, "vision_config": VISION, "mm_tokens_per_image": 4, "image_token_index": 1},
    )


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_text_of_a_checkpoint_that_sees(tmp_path: Path, prefix: str) -> None:
    checkpoint = seeing(tmp_path / "c")
    file = checkpoint.folder / "model.safetensors"
    tensors = load_file(file)
    assert any("vision_tower" in name for name in tensors)
    [found] = [name.removesuffix("embed_tokens.weight") for name in tensors if name.endswith("embed_tokens.weight")]
    save_file({prefix + n.removeprefix(found) if n.startswith(found) else n: t for n, t in tensors.items()}, file)
    check_scores(checkpoint, tmp_path / "b")


@pytest.mark.ladder
def test_parity_gate_of_a_checkpoint_that_sees(tmp_path: Path) -> None:
    check_parity_gate(seeing(tmp_path / "c"), tmp_path / "b", "bf16")


def test_a_text_config_leaves_out_what_is_as_in_the_class() -> None:
    """Gemma 3 4B's published text_config."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    raw = {"model_type": "gemma3", "text_config": text, "vision_config": {}}
    config: Any = family_of(raw).read_config(raw)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 256)
    assert (config.vocab_size, config.max_position_embeddings) == (262_208, 131_072)
    assert config.windows == tuple(None if i % 6 == 5 else 1024 for i in range(34))
    assert [(rope.kind, rope.theta, rope.factor) for rope in config.ropes[4:6]] == [
        ("default", 1e4, None),
        ("linear", 1e6, 8.0),
    ]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"use_bidirectional_attention": True}, UnsupportedModel, "supported without it"),
        ({"attn_logit_softcapping": 50.0}, UnsupportedModel, "attn_logit_softcapping is 50.0"),
        (
            {"rope_parameters": {"rope_type": "default"}},
            CheckpointError,
            "expected full_attention and sliding_attention",
        ),
        ({"rope_scaling": "linear"}, CheckpointError, "rope_scaling is linear"),
        ({"model_type": "gemma3"}, CheckpointError, "text_config is None"),
    ],
)
def test_refusals(tmp_path: Path, fields: dict[str, Any], error: type[Exception], message: str) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", "gemma3_text", TINY)
    rewrite_config(checkpoint, fields)
    with pytest.raises(error, match=message):
        export(str(checkpoint.folder), tmp_path / "b", ExportOptions())
