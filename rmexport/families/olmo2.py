"""OLMo 2: as Llama, but norms follow attention and MLP, and queries and keys have one each (modeling_olmo2.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {"rms_norm_eps": 1e-5, **raw}
    bias = flag(raw, "attention_bias")
    return DecoderConfig(
        **decoder_fields(raw),
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
    )


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(_Layers(d, c))


class _Layers(DecoderLayers):
    def attention_input(self, i: int, x: ir.Value) -> ir.Value:
        return self.d.narrow(x)

    def normed_queries(self, i: int, q: ir.Value) -> ir.Value:
        return self._wide_norm(q, f"{self.attention_name(i)}.q_norm", self.c.query_size)

    def normed_keys(self, i: int, k: ir.Value) -> ir.Value:
        return self._wide_norm(k, f"{self.attention_name(i)}.k_norm", self.c.key_size)

    def attended(self, i: int, x: ir.Value, mixed: ir.Value) -> tuple[ir.Value, ir.Value]:
        y = self.d.widen(self.attention_output(i, mixed))
        x = self.d.add(x, self.norm(y, f"{self.layer(i)}.post_attention_layernorm"))
        return x, self.d.narrow(x)

    def joined(self, i: int, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.d.add(x, self.norm(self.d.widen(y), f"{self.layer(i)}.post_feedforward_layernorm"))

    def _wide_norm(self, x: ir.Value, name: str, size: int) -> ir.Value:
        return self.d.rms_norm(self.d.widen(x), name, size, self.c.norm_eps)


FAMILY = Family(
    model_types=("olmo2",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    default_pad_id=1,
    read_config=read_config,
    backbone=backbone,
)
