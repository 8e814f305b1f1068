"""Qwen2 and Qwen2.5: as Llama, with biases on q, k and v; upper layers may have a window (modeling_qwen2.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.families import ROTARY_BUFFERS, Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, upper_layer_windows
from rmexport.graph.decoder_writer import DecoderWriter


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    fields = decoder_fields(raw)
    fields["windows"] = upper_layer_windows(raw)
    return DecoderConfig(**fields, activation=activation(raw, "hidden_act", known=("silu",)), qkv_bias=True)


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=("qwen2",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=ROTARY_BUFFERS,
    read_config=read_config,
    backbone=backbone,
)
