"""Qwen3-VL, text only: Qwen3's layers; text has the same position on all three axes of the rope, so a plain one.

transformers' modeling_qwen3_vl.py. Image inputs are not supported.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag, text_section
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter

# Of absent fields: a text_config beside a vision model leaves out fields with these values.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 128_000,
    "rope_theta": 500_000.0,
}


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {**DEFAULTS, **_text(raw)}
    bias = flag(raw, "attention_bias")
    return DecoderConfig(
        **decoder_fields(raw),
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
        head_norms=True,
    )


def _text(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return text_section(raw) if raw.get("model_type") == "qwen3_vl" else raw


def reference_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The text backbone's configuration. Raises CheckpointError where a config of text and images has none."""
    return {**_text(raw), "model_type": "qwen3_vl_text"}


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=(
        "qwen3_vl",
        "qwen3_vl_text",
    ),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=(r"(model\.)?visual\..*",),  # what sees images
    read_config=read_config,
    backbone=backbone,
    reference_config=reference_config,
)
