"""GPT-NeoX and Pythia: LayerNorm, fused projections by head, partial rope, parallel residual, plain MLP.

Source: transformers' modeling_gpt_neox.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import EPSILON, flag, number
from rmexport.checkpoint.derived_tensors import Derived, TensorRows
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter
from rmexport.graph.partial_rotary import rotary_order

_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")


@dataclass(frozen=True, kw_only=True)
class GptNeoxConfig(DecoderConfig):
    """`parallel_residual`: attention and MLP both read the stream as it was before the layer."""

    parallel_residual: bool


def read_config(raw: Mapping[str, Any]) -> GptNeoxConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    old = {"rope_theta": raw.get("rotary_emb_base"), "partial_rotary_factor": raw.get("rotary_pct", 0.25)}
    every_head = {"num_key_value_heads": None, "head_dim": None}  # not GPT-NeoX's, whatever config.json says
    fields = decoder_fields({**raw, **old, **every_head}, partial=True)
    fields["norm_eps"] = number(raw, "layer_norm_eps", EPSILON, default=1e-5)
    bias = flag({"attention_bias": True, **raw}, "attention_bias")
    return GptNeoxConfig(
        **fields,
        activation=activation(raw, "hidden_act", known=_ACTIVATIONS, default="gelu"),
        qkv_bias=bias,
        output_bias=bias,
        parallel_residual=flag({"use_parallel_residual": True, **raw}, "use_parallel_residual"),
    )


def reference_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The backbone alone, as transformers names it."""
    return {**raw, "model_type": "gpt_neox"}


def derived(c: GptNeoxConfig) -> Mapping[str, Derived]:
    """Rows of `query_key_value`, which holds [query, key, value] of one head after another."""
    order = rotary_order(1, c.head_dim, int(c.head_dim * c.ropes[0].partial))
    orders = {"q_proj": order, "k_proj": order, "v_proj": range(c.head_dim)}
    rows = {
        name: tuple((3 * head + part) * c.head_dim + row for head in range(c.num_attention_heads) for row in within)
        for part, (name, within) in enumerate(orders.items())
    }
    return {
        f"gpt_neox.layers.{i}.attention.{name}.{kind}": TensorRows(
            source=f"gpt_neox.layers.{i}.attention.query_key_value.{kind}", rows=rows[name]
        )
        for i in range(c.num_hidden_layers)
        for name in rows
        for kind in ("weight", "bias")
    }


class GptNeoxLayers(DecoderLayers):
    """Where GPT-NeoX differs from Llama: its names, its norms, its MLP, and what that reads."""

    PREFIX = "gpt_neox"
    ATTENTION = "attention"
    c: GptNeoxConfig

    def embed(self) -> ir.Value:
        return self.d.embed("gpt_neox.embed_in", (self.c.vocab_size, self.c.hidden_size))

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        return self.d.layer_norm(x, name, self.c.hidden_size, self.c.norm_eps)

    def attention_output(self, i: int, mixed: ir.Value) -> ir.Value:
        c, name = self.c, f"{self.attention_name(i)}.dense"
        return self.d.linear(mixed, name, (c.hidden_size, c.query_size), bias=c.output_bias)

    def attended(self, i: int, x: ir.Value, mixed: ir.Value) -> tuple[ir.Value, ir.Value]:
        after = self.d.add(x, self.attention_output(i, mixed))
        read = x if self.c.parallel_residual else after
        return after, self.norm(read, f"{self.layer(i)}.post_attention_layernorm")

    def mlp(self, i: int, y: ir.Value) -> ir.Value:
        c, name = self.c, f"{self.layer(i)}.mlp"
        inner = self.d.linear(y, f"{name}.dense_h_to_4h", (c.intermediate_size, c.hidden_size), bias=True)
        inner = self.d.activate(inner, c.activation)
        return self.d.linear(inner, f"{name}.dense_4h_to_h", (c.hidden_size, c.intermediate_size), bias=True)

    def final(self, x: ir.Value) -> ir.Value:
        return self.d.final_layer_norm(x, "gpt_neox.final_layer_norm", self.c.hidden_size, self.c.norm_eps)


def backbone(d: DecoderWriter, c: GptNeoxConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(GptNeoxLayers(d, c))


FAMILY = Family(
    model_types=("gpt_neox", "gpt_neox_reward_model"),  # Open-Assistant's name for its own class
    embedding="gpt_neox.embed_in.weight",
    lm_head="embed_out.weight",
    ignored=(r".*\.attention\.(rotary_emb\.inv_freq|bias|masked_bias)$",),  # buffers that old releases saved
    read_config=read_config,
    backbone=backbone,
    derived=derived,
    reference_config=reference_config,
)
