"""Gemma 3, text only: as Gemma 2, with norms of queries and keys, no softcap, and a rope for each kind of layer.

transformers' modeling_gemma3.py. Of a checkpoint that also sees ("gemma3"), the text backbone; image inputs have none.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import FACTOR, LAYERS, LENGTH, flag, integer, number, section, text_section
from rmexport.checkpoint.rope_config import RopeConfig, read_rope
from rmexport.errors import CheckpointError, UnsupportedModel
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, FourNormLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, layer_windows
from rmexport.graph.decoder_writer import DecoderWriter

GELU = "gelu_pytorch_tanh"
# Of absent fields: a text_config beside a vision model leaves out fields with these values.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}
ROPES = ("full_attention", "sliding_attention")


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {**DEFAULTS, **reference_config(raw)}
    _refuse(raw)
    fields, bias = decoder_fields({**raw, "rope_parameters": None, "rope_scaling": None}), flag(raw, "attention_bias")
    layers, window = fields["num_hidden_layers"], integer(raw, "sliding_window", LENGTH)
    pattern = integer(raw, "sliding_window_pattern", LAYERS)
    slides = [(i + 1) % pattern > 0 for i in range(layers)]
    fields["windows"] = layer_windows(raw, layers, window=window, slides=slides)
    everywhere, local = _ropes(raw)
    fields["ropes"] = tuple(everywhere if window is None else local for window in fields["windows"])
    fields["attention_scale"] = number(raw, "query_pre_attn_scalar", FACTOR, default=256) ** -0.5
    return DecoderConfig(
        **fields,
        activation=activation(raw, "hidden_activation", known=(GELU,), default=GELU),
        qkv_bias=bias,
        output_bias=bias,
        unit_offset=True,
        head_norms=True,
        embedding_scale=fields["hidden_size"] ** 0.5,
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(FourNormLayers(d, c))


def reference_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The text backbone's configuration; raises CheckpointError where a config of text and images has none."""
    if raw.get("model_type") != "gemma3":
        return dict(raw)
    return {**text_section(raw), "model_type": "gemma3_text"}


def _refuse(raw: Mapping[str, Any]) -> None:
    for name in ("use_bidirectional_attention", "attn_logit_softcapping"):
        if raw.get(name):
            raise UnsupportedModel(f"{name} is {raw[name]!r}; a gemma3_text backbone is supported without it")


def _ropes(raw: Mapping[str, Any]) -> tuple[RopeConfig, RopeConfig]:
    """Of full and of sliding attention. In the old spelling `rope_scaling` counts for full attention alone."""
    given, scaling = raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}
    if not isinstance(given, dict) or any(name not in ROPES for name in given):
        raise CheckpointError(f"config.json: rope_parameters is {given!s:.80}, expected {' and '.join(ROPES)} in it")
    if not isinstance(scaling, dict):
        raise CheckpointError(f"config.json: rope_scaling is {scaling!s:.80}, expected an object or null")
    full = {"rope_theta": raw.get("rope_theta"), **section(given, ROPES[0]), **scaling}
    local = {"rope_theta": raw.get("rope_local_base_freq"), **section(given, ROPES[1])}
    length = {"max_position_embeddings": raw["max_position_embeddings"]}
    return (
        read_rope({**length, "rope_parameters": full}, default_theta=1_000_000.0),
        read_rope({**length, "rope_parameters": local}, default_theta=10_000.0),
    )


FAMILY = Family(
    model_types=("gemma3_text", "gemma3"),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=(r"(model\.)?(vision_tower|multi_modal_projector)\..*",),  # what sees images
    tied_by_default=True,
    default_pad_id=0,
    read_config=read_config,
    backbone=backbone,
    reference_config=reference_config,
)
