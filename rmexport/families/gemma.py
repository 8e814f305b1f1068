"""Gemma: as Llama, with scaled embeddings, norms that scale by 1 + weight, and a tanh-GELU MLP (modeling_gemma.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag
from rmexport.errors import UnsupportedModel
from rmexport.families import ROTARY_BUFFERS, Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter

HEAD_DIM = 256  # where config.json has none
GELU = "gelu_pytorch_tanh"


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    if flag(raw, "use_bidirectional_attention"):
        raise UnsupportedModel("use_bidirectional_attention is true; gemma is supported with causal attention")
    fields, bias = decoder_fields(raw, head_dim=HEAD_DIM), flag(raw, "attention_bias")
    return DecoderConfig(
        **fields,
        activation=activation(_named_gelu(raw), "hidden_act", known=(GELU,), default=GELU),
        qkv_bias=bias,
        output_bias=bias,
        unit_offset=True,
        embedding_scale=fields["hidden_size"] ** 0.5,
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


def _named_gelu(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first releases say "gelu" and mean the tanh form; some versions of transformers read `hidden_activation`."""
    activation(raw, "hidden_activation", known=(GELU,), default=GELU)
    return {**raw, "hidden_act": GELU} if raw.get("hidden_act") == "gelu" else raw


FAMILY = Family(
    model_types=("gemma",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=ROTARY_BUFFERS,
    tied_by_default=True,
    default_pad_id=0,
    read_config=read_config,
    backbone=backbone,
)
