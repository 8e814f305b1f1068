"""Granite (dense): Llama with factors for embeddings, attention and what each block adds (modeling_granite.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import FACTOR, flag, number
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter


@dataclass(frozen=True, kw_only=True)
class GraniteConfig(DecoderConfig):
    """What attention and MLP add to the stream is multiplied by `residual_multiplier`."""

    residual_multiplier: float


def read_config(raw: Mapping[str, Any]) -> GraniteConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    fields, bias = decoder_fields(raw), flag(raw, "attention_bias")
    fields["attention_scale"] = number(raw, "attention_multiplier", FACTOR, default=1.0)
    return GraniteConfig(
        **fields,
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=flag(raw, "mlp_bias"),
        embedding_scale=number(raw, "embedding_multiplier", FACTOR, default=1.0),
        residual_multiplier=number(raw, "residual_multiplier", FACTOR, default=1.0),
    )


class GraniteLayers(DecoderLayers):
    """Where Granite differs from Llama."""

    c: GraniteConfig

    def attention_output(self, i: int, mixed: ir.Value) -> ir.Value:
        return self._multiplied(super().attention_output(i, mixed))

    def joined(self, i: int, x: ir.Value, y: ir.Value) -> ir.Value:
        return super().joined(i, x, self._multiplied(y))

    def _multiplied(self, y: ir.Value) -> ir.Value:
        factor = self.c.residual_multiplier
        return self.d.w.op("Mul", y, self.d.w.constant("residual_multiplier", factor, self.d.dtype))


def backbone(d: DecoderWriter, c: GraniteConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(GraniteLayers(d, c))


FAMILY = Family(
    model_types=("granite",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    read_config=read_config,
    backbone=backbone,
)
