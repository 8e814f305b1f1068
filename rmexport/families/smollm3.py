"""SmolLM3: as Llama, without rotary embedding in every fourth layer (NoPE), which may slide (modeling_smollm3.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import LAYERS, LENGTH, flag, integer, optional_integer
from rmexport.errors import CheckpointError
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, layer_windows
from rmexport.graph.decoder_writer import DecoderWriter

DEFAULTS = {"num_key_value_heads": 4, "rope_theta": 2_000_000.0, "no_rope_layer_interval": 4}  # of absent fields


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {**DEFAULTS, **raw}
    fields, bias = decoder_fields(raw), flag(raw, "attention_bias")
    layers, window = fields["num_hidden_layers"], optional_integer(raw, "sliding_window", LENGTH)
    unrotated = _unrotated(raw, layers)
    # Only layer_types that are given can make a layer slide without use_sliding_window: masks are made by them alone.
    slides = [flag(raw, "use_sliding_window") and i in unrotated for i in range(layers)]
    fields["windows"] = layer_windows(raw, layers, window=window, slides=slides)
    return DecoderConfig(
        **fields,
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=flag(raw, "mlp_bias"),
        unrotated=unrotated,
    )


def _unrotated(raw: Mapping[str, Any], layers: int) -> frozenset[int]:
    """Layers without rotary embedding: those with a 0 in `no_rope_layers`, else the last of every interval."""
    given = raw.get("no_rope_layers")
    if given is None:
        interval = integer(raw, "no_rope_layer_interval", LAYERS)
        return frozenset(i for i in range(layers) if (i + 1) % interval == 0)
    if not isinstance(given, list) or len(given) < layers or any(value not in (0, 1) for value in given):
        raise CheckpointError(
            f"config.json: no_rope_layers is {given!s:.80}, expected a 1 (rotary embedding) or 0 for each of {layers} "
            "layers; restore the original"
        )
    return frozenset(i for i in range(layers) if not given[i])


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=("smollm3",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    tied_by_default=True,
    default_pad_id=128_004,
    read_config=read_config,
    backbone=backbone,
)
