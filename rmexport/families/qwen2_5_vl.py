"""Qwen2.5-VL, text only: Qwen2's layers; text has the same position on all three axes of the rope, so a plain one.

transformers' modeling_qwen2_5_vl.py. Image inputs are not supported.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import section, text_section
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, upper_layer_windows
from rmexport.graph.decoder_writer import DecoderWriter

# Of absent fields: a text_config beside a vision model leaves out fields with these values.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 8192,
    "intermediate_size": 29_568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000.0,
    "max_window_layers": 80,
}


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {**DEFAULTS, **_text(raw)}
    fields = decoder_fields({**raw, **_plain_ropes(raw)})
    fields["windows"] = upper_layer_windows(raw)
    return DecoderConfig(**fields, activation=activation(raw, "hidden_act", known=("silu",)), qkv_bias=True)


def _text(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text's fields, which the first releases have beside those of images."""
    return text_section(raw) if "text_config" in raw else raw


def _plain_ropes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary parameters where "mrope", the first releases' kind, is "default": it is so for text."""
    ropes = {name: dict(section(raw, name)) for name in ("rope_scaling", "rope_parameters")}
    for rope in ropes.values():
        if rope.get("rope_type", rope.get("type")) == "mrope":
            rope["rope_type"] = "default"
    return {name: rope or None for name, rope in ropes.items()}


def reference_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The text backbone's configuration. Raises CheckpointError where a config of text and images has none."""
    return {**_text(raw), "model_type": "qwen2_5_vl_text"}


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=(
        "qwen2_5_vl",
        "qwen2_5_vl_text",
    ),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=(r"(model\.)?visual\..*",),  # what sees images
    read_config=read_config,
    backbone=backbone,
    reference_config=reference_config,
)
