"""Ministral 3: as Mistral, with YaRN, and queries that grow with their position (modeling_ministral3.py)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import (
    LENGTH,
    NUMBER,
    ROPE_BASE,
    number,
    optional_integer,
    optional_number,
    section,
)
from rmexport.checkpoint.rope_config import RopeConfig
from rmexport.errors import CheckpointError
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter

DEFAULTS = {"num_key_value_heads": 8, "rms_norm_eps": 1e-5}  # of absent fields
HEAD_DIM = 128
BETA = "llama_4_scaling_beta"
ROPE: Mapping[str, Any] = {  # where config.json has none
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16_384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    BETA: 0.1,
}


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    optional_number(raw, "rope_theta", ROPE_BASE)  # unused beside ROPE, and checked all the same
    raw = {**DEFAULTS, **raw}
    given = section(raw, "rope_scaling") or section(raw, "rope_parameters") or ROPE
    fields = decoder_fields({**raw, "rope_scaling": None, "rope_parameters": given}, head_dim=HEAD_DIM)
    fields["ropes"] = tuple(_with_query_scaling(rope, given) for rope in fields["ropes"])
    fields["windows"] = (optional_integer(raw, "sliding_window", LENGTH),) * fields["num_hidden_layers"]
    return DecoderConfig(**fields, activation=activation(raw, "hidden_act", known=("silu",)))


def _with_query_scaling(rope: RopeConfig, given: Mapping[str, Any]) -> RopeConfig:
    """Raises CheckpointError without the factor or the original length, which transformers cannot do without."""
    if given.get(BETA) is None or rope.original_max_position_embeddings is None:
        raise CheckpointError(
            f"config.json: rope_parameters has no {BETA} or no original_max_position_embeddings, with which a "
            "ministral3 backbone scales its queries; restore the original"
        )
    beta = number(given, BETA, NUMBER, default=0.0)
    return replace(rope, query_scaling=beta) if beta else rope


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=("ministral3",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    default_pad_id=11,
    read_config=read_config,
    backbone=backbone,
)
