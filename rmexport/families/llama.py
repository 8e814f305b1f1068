"""Llama 2, 3, 3.1 and kin: RMSNorm, rotary grouped-query attention, gated MLP (transformers' modeling_llama.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag, integer, number, optional_integer
from rmexport.checkpoint.rope_config import RopeConfig, read_rope
from rmexport.errors import UnsupportedModel
from rmexport.graph.packed import AttentionRows
from rmexport.graph.vocabulary import AttentionShape, Dialect, Rotary

MODEL_TYPES = ("llama",)
IGNORED = (r".*rotary_emb\.inv_freq$",)  # a buffer that old releases saved; computed from the config


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields of config.json that a Llama backbone depends on, under their own names."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    attention_bias: bool
    mlp_bias: bool
    rope: RopeConfig


def read_config(raw: Mapping[str, Any]) -> Config:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    heads, hidden = integer(raw, "num_attention_heads"), integer(raw, "hidden_size")
    if (activation := raw.get("hidden_act", "silu")) != "silu":
        raise UnsupportedModel(f"hidden_act is {activation!r}; a llama backbone is supported with 'silu' only")
    return Config(
        hidden_size=hidden,
        intermediate_size=integer(raw, "intermediate_size"),
        num_hidden_layers=integer(raw, "num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=optional_integer(raw, "num_key_value_heads") or heads,
        head_dim=optional_integer(raw, "head_dim") or hidden // heads,
        vocab_size=integer(raw, "vocab_size"),
        max_position_embeddings=integer(raw, "max_position_embeddings"),
        rms_norm_eps=number(raw, "rms_norm_eps", default=1e-6),
        attention_bias=flag(raw, "attention_bias"),
        mlp_bias=flag(raw, "mlp_bias"),
        rope=read_rope(raw),
    )


def backbone(d: Dialect, c: Config) -> ir.Value:
    """Final hidden states of the read tokens, fp32 [N, hidden]; the last layer's queries and MLP are theirs alone."""
    x = d.embed("model.embed_tokens", (c.vocab_size, c.hidden_size))
    rotary = d.rotary(c.rope, c.head_dim)
    for i in range(c.num_hidden_layers):
        last = i == c.num_hidden_layers - 1
        x = _layer(d, c, x, f"model.layers.{i}", rotary, d.inputs.read_rows if last else d.inputs.all_rows)
    return d.final_norm(x, "model.norm", c.hidden_size, c.rms_norm_eps)


def _layer(d: Dialect, c: Config, x: ir.Value, name: str, rotary: Rotary, rows: AttentionRows) -> ir.Value:
    y = d.rms_norm(x, f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps)
    x = d.add(d.take(x, rows), _attention(d, c, y, f"{name}.self_attn", rotary, rows))
    y = d.rms_norm(x, f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps)
    return d.add(x, _mlp(d, c, y, f"{name}.mlp"))


def _attention(d: Dialect, c: Config, y: ir.Value, name: str, rotary: Rotary, rows: AttentionRows) -> ir.Value:
    queries, kv, bias = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim, c.attention_bias
    k = d.linear(y, f"{name}.k_proj", (kv, c.hidden_size), bias=bias)
    v = d.linear(y, f"{name}.v_proj", (kv, c.hidden_size), bias=bias)
    q = d.linear(d.take(y, rows), f"{name}.q_proj", (queries, c.hidden_size), bias=bias)
    k = d.rotate_for(k, c.num_key_value_heads, rotary, d.inputs.all_rows)
    q = d.rotate_for(q, c.num_attention_heads, rotary, rows)
    shape = AttentionShape(
        heads=c.num_attention_heads, kv_heads=c.num_key_value_heads, head_dim=c.head_dim, scale=c.head_dim**-0.5
    )
    return d.linear(d.attention(q, k, v, rows, shape), f"{name}.o_proj", (c.hidden_size, queries), bias=bias)


def _mlp(d: Dialect, c: Config, y: ir.Value, name: str) -> ir.Value:
    gate = d.linear(y, f"{name}.gate_proj", (c.intermediate_size, c.hidden_size), bias=c.mlp_bias)
    up = d.linear(y, f"{name}.up_proj", (c.intermediate_size, c.hidden_size), bias=c.mlp_bias)
    return d.linear(d.gated(gate, up), f"{name}.down_proj", (c.hidden_size, c.intermediate_size), bias=c.mlp_bias)
