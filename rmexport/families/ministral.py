"""Ministral: as Mistral, with a window in those layers that config.json says (modeling_ministral.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import LENGTH, optional_integer
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, layer_windows
from rmexport.graph.decoder_writer import DecoderWriter

DEFAULTS = {"num_key_value_heads": 8, "sliding_window": 4096}  # of absent fields; null means what it says


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {**DEFAULTS, **raw}
    fields = decoder_fields(raw)
    layers, window = fields["num_hidden_layers"], optional_integer(raw, "sliding_window", LENGTH)
    fields["windows"] = layer_windows(raw, layers, window=window, slides=[True] * layers)
    return DecoderConfig(**fields, activation=activation(raw, "hidden_act", known=("silu",)))


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=("ministral",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    read_config=read_config,
    backbone=backbone,
)
