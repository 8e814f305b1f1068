"""OLMo 3: as OLMo 2, with a window in three of four layers, and a rope for each kind of layer (modeling_olmo3.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import LENGTH, flag, optional_integer, section
from rmexport.checkpoint.rope_config import RopeConfig, read_rope
from rmexport.errors import CheckpointError
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, WideNormLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, layer_windows
from rmexport.graph.decoder_writer import DecoderWriter

THETA = 500_000.0  # of either kind of layer, where config.json has none
ROPES = ("full_attention", "sliding_attention")


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {"rms_norm_eps": 1e-5, "sliding_window": 4096, **raw}
    fields, bias = decoder_fields({**raw, "rope_parameters": None, "rope_scaling": None}), flag(raw, "attention_bias")
    layers, window = fields["num_hidden_layers"], optional_integer(raw, "sliding_window", LENGTH)
    fields["windows"] = layer_windows(raw, layers, window=window, slides=[(i + 1) % 4 > 0 for i in range(layers)])
    full, local = _ropes(raw)
    fields["ropes"] = tuple(full if window is None else local for window in fields["windows"])
    return DecoderConfig(
        **fields,
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
    )


def _ropes(raw: Mapping[str, Any]) -> tuple[RopeConfig, RopeConfig]:
    """Of full and of sliding attention. The old spelling, `rope_theta` and `rope_scaling`, is full attention's alone.

    So Olmo3Config reads it: the base of sliding attention is THETA then, whatever `rope_theta` is.
    """
    given, scaling = raw.get("rope_parameters") or {}, section(raw, "rope_scaling")
    if not isinstance(given, dict) or any(name not in ROPES for name in given):
        raise CheckpointError(f"config.json: rope_parameters is {given!s:.80}, expected {' and '.join(ROPES)} in it")
    full = {"rope_theta": raw.get("rope_theta"), **section(given, ROPES[0]), **scaling}
    length = {"max_position_embeddings": raw["max_position_embeddings"]}
    return (
        read_rope({**length, "rope_parameters": full}, default_theta=THETA),
        read_rope({**length, "rope_parameters": section(given, ROPES[1])}, default_theta=THETA),
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(WideNormLayers(d, c))


FAMILY = Family(
    model_types=("olmo3",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    default_pad_id=1,
    read_config=read_config,
    backbone=backbone,
)
