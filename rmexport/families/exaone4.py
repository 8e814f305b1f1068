"""EXAONE 4: norms follow attention and MLP, heads have norms, full layers no rotary embedding (modeling_exaone4.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import LAYERS, LENGTH, integer, optional_integer
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, PostNormLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, layer_windows
from rmexport.graph.decoder_writer import DecoderWriter

DEFAULTS = {"rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4}  # of absent fields


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {**DEFAULTS, **raw}
    fields = decoder_fields(raw)
    layers, window = fields["num_hidden_layers"], optional_integer(raw, "sliding_window", LENGTH)
    fields["windows"] = layer_windows(raw, layers, window=window, slides=_slides(raw, layers))
    full = frozenset(i for i, size in enumerate(fields["windows"]) if size is None)
    return DecoderConfig(
        **fields,
        activation=activation(raw, "hidden_act", known=("silu",)),
        head_norms=True,
        unrotated=frozenset() if window is None else full,  # a model without windows rotates in every layer
    )


def _slides(raw: Mapping[str, Any], layers: int) -> list[bool]:
    """Where config.json has no `layer_types`, every layer but the last of each `sliding_window_pattern`.

    The pattern may be text ("LLLG") beside layer types, which say the same.
    """
    if raw.get("layer_types") is not None or raw["sliding_window"] is None:
        return [False] * layers
    pattern = integer(raw, "sliding_window_pattern", LAYERS)
    return [(i + 1) % pattern > 0 for i in range(layers)]


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(PostNormLayers(d, c))


FAMILY = Family(
    model_types=("exaone4",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    read_config=read_config,
    backbone=backbone,
)
