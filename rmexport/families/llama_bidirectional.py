"""Bidirectional Llama, of NVIDIA's rerankers: as Llama, with attention to all of a sequence.

Source: NVIDIA-NeMo/Automodel, llama_bidirectional/model.py, whose config differs from Llama's in `pooling` and
`temperature`, which the head reads.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag
from rmexport.families import ROTARY_BUFFERS, Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter

OWN = ("is_causal", "pooling", "temperature")  # fields that Llama's config does not have, or not so


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """As Llama's, whatever it says of causality."""
    own = {name: value for name, value in raw.items() if name not in OWN}
    bias = flag(own, "attention_bias")
    return DecoderConfig(
        **decoder_fields(own),
        activation=activation(own, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=flag(own, "mlp_bias"),
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]; which keys a query sees is the inputs' to say."""
    return decode(DecoderLayers(d, c))


def reference_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' Llama, which masks nothing where its config is not causal."""
    return {name: value for name, value in raw.items() if name not in OWN} | {"model_type": "llama", "is_causal": False}


FAMILY = Family(
    model_types=("llama_bidirec",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=ROTARY_BUFFERS,
    causal=False,
    read_config=read_config,
    backbone=backbone,
    reference_config=reference_config,
)
