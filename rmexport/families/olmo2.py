"""OLMo 2: as Llama, but norms follow attention and MLP, and queries and keys have one each (modeling_olmo2.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, WideNormLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {"rms_norm_eps": 1e-5, **raw}
    bias = flag(raw, "attention_bias")
    return DecoderConfig(
        **decoder_fields(raw),
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(WideNormLayers(d, c))


FAMILY = Family(
    model_types=("olmo2",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    default_pad_id=1,
    read_config=read_config,
    backbone=backbone,
)
