"""Qwen3: as Qwen2 without biases, with a norm of each head of queries and keys (modeling_qwen3.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, upper_layer_windows
from rmexport.graph.decoder_writer import DecoderWriter

HEAD_DIM = 128  # where config.json has none


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    fields = decoder_fields(raw, head_dim=HEAD_DIM)
    bias = flag(raw, "attention_bias")
    fields["windows"] = upper_layer_windows(raw)
    return DecoderConfig(
        **fields,
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
        head_norms=True,
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=("qwen3",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    read_config=read_config,
    backbone=backbone,
)
