"""Seed-OSS: as Llama, with biases on q, k and v unless config.json says otherwise (modeling_seed_oss.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter

HEAD_DIM = 128  # where config.json has none


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {"num_key_value_heads": 8, "attention_bias": True, **raw}
    return DecoderConfig(
        **decoder_fields(raw, head_dim=HEAD_DIM),
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=flag(raw, "attention_bias"),
        output_bias=flag(raw, "attention_out_bias"),
        mlp_bias=flag(raw, "mlp_bias"),
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=("seed_oss",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    default_pad_id=1,
    read_config=read_config,
    backbone=backbone,
)
