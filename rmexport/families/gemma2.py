"""Gemma 2: Gemma with norms around attention and MLP, a softcap on attention scores, and a window in every other layer.

transformers' modeling_gemma2.py. The softcap of the final logits belongs to the LM head: a reward never passes it.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import FACTOR, LENGTH, flag, integer, number
from rmexport.errors import UnsupportedModel
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, FourNormLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields, layer_windows
from rmexport.graph.decoder_writer import DecoderWriter

GELU = "gelu_pytorch_tanh"
# Of absent fields; null means what it says.
DEFAULTS = {"head_dim": 256, "num_key_value_heads": 4, "sliding_window": 4096, "query_pre_attn_scalar": 256}
SOFTCAP = 50.0


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    if flag(raw, "use_bidirectional_attention"):
        raise UnsupportedModel("use_bidirectional_attention is true; gemma2 is supported with causal attention")
    raw = {**DEFAULTS, **raw}
    fields, bias = decoder_fields(raw), flag(raw, "attention_bias")
    layers, window = fields["num_hidden_layers"], integer(raw, "sliding_window", LENGTH)
    fields["windows"] = layer_windows(raw, layers, window=window, slides=[i % 2 == 0 for i in range(layers)])
    fields["attention_scale"] = number(raw, "query_pre_attn_scalar", FACTOR, default=256) ** -0.5
    return DecoderConfig(
        **fields,
        activation=activation(raw, "hidden_activation", known=(GELU,), default=GELU),
        softcap=_softcap(raw),
        qkv_bias=bias,
        output_bias=bias,
        unit_offset=True,
        embedding_scale=fields["hidden_size"] ** 0.5,
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(FourNormLayers(d, c))


def _softcap(raw: Mapping[str, Any]) -> float | None:
    name = "attn_logit_softcapping"
    return None if raw.get(name, SOFTCAP) is None else number(raw, name, FACTOR, default=SOFTCAP)


FAMILY = Family(
    model_types=("gemma2",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    tied_by_default=True,
    default_pad_id=0,
    read_config=read_config,
    backbone=backbone,
)
