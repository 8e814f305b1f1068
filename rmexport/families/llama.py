"""Llama 2, 3, 3.1 and kin: RMSNorm, rotary grouped-query attention, gated MLP (transformers' modeling_llama.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag, integer, number, optional_integer
from rmexport.checkpoint.rope_config import RopeConfig, read_rope
from rmexport.errors import UnsupportedModel
from rmexport.graph.vocabulary import AttentionShape, Dialect

MODEL_TYPES = ("llama",)
Triple = tuple[ir.Value, ir.Value, ir.Value]
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
    rotary, last, shape = d.rotary(c.rope, c.head_dim), c.num_hidden_layers - 1, _attention_shape(c)
    x = d.embed("model.embed_tokens", (c.vocab_size, c.hidden_size))
    inputs = [d.stream(x, c.hidden_size), *rotary.features]
    q, k, v = d.tokenwise(partial(_project, d, c, 0), inputs, _widths(c, 0))
    for i in range(last):
        mixed = d.attention(q, k, v, d.inputs.all_rows, shape)
        inputs = [d.stream(x, c.hidden_size), d.features(mixed, shape.heads * shape.head_dim), *rotary.features]
        x, q, k, v = d.tokenwise(partial(_step, d, c, i), inputs, (c.hidden_size, *_widths(c, i + 1)))
    rows = d.inputs.read_rows
    q = _queries(d, c, last, d.take(q, rows), rotary.read_cos, rotary.read_sin)
    x = _finish(d, c, last, d.take(x, rows), d.attention(q, k, v, rows, shape))
    return d.final_norm(x, "model.norm", c.hidden_size, c.rms_norm_eps)


def _attention_shape(c: Config) -> AttentionShape:
    return AttentionShape(
        heads=c.num_attention_heads, kv_heads=c.num_key_value_heads, head_dim=c.head_dim, scale=c.head_dim**-0.5
    )


def _widths(c: Config, i: int) -> tuple[int, int, int]:
    """Of what `_project` gives."""
    kv = c.num_key_value_heads * c.head_dim
    return (c.hidden_size if i == c.num_hidden_layers - 1 else c.num_attention_heads * c.head_dim), kv, kv


def _project(d: Dialect, c: Config, i: int, x: ir.Value, cos: ir.Value, sin: ir.Value) -> Triple:
    """Queries, keys and values of layer i; the last layer, which needs few queries, gives what they are made of."""
    name, features = f"model.layers.{i}", (c.num_key_value_heads * c.head_dim, c.hidden_size)
    y = d.rms_norm(x, f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps)
    k = d.linear(y, f"{name}.self_attn.k_proj", features, bias=c.attention_bias)
    v = d.linear(y, f"{name}.self_attn.v_proj", features, bias=c.attention_bias)
    q = y if i == c.num_hidden_layers - 1 else _queries(d, c, i, y, cos, sin)
    return q, d.rotate(k, c.num_key_value_heads, cos, sin), v


def _queries(d: Dialect, c: Config, i: int, y: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
    features = (c.num_attention_heads * c.head_dim, c.hidden_size)
    q = d.linear(y, f"model.layers.{i}.self_attn.q_proj", features, bias=c.attention_bias)
    return d.rotate(q, c.num_attention_heads, cos, sin)


def _step(
    d: Dialect, c: Config, i: int, x: ir.Value, mixed: ir.Value, cos: ir.Value, sin: ir.Value
) -> tuple[ir.Value, ...]:
    """From the attention of layer i to that of the next: the stream, and what `_project` gives."""
    x = _finish(d, c, i, x, mixed)
    return x, *_project(d, c, i + 1, x, cos, sin)


def _finish(d: Dialect, c: Config, i: int, x: ir.Value, mixed: ir.Value) -> ir.Value:
    """The stream after layer i."""
    name, features = f"model.layers.{i}", (c.hidden_size, c.num_attention_heads * c.head_dim)
    x = d.add(x, d.linear(mixed, f"{name}.self_attn.o_proj", features, bias=c.attention_bias))
    y = d.rms_norm(x, f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps)
    return d.add(x, _mlp(d, c, y, f"{name}.mlp"))


def _mlp(d: Dialect, c: Config, y: ir.Value, name: str) -> ir.Value:
    gate = d.linear(y, f"{name}.gate_proj", (c.intermediate_size, c.hidden_size), bias=c.mlp_bias)
    up = d.linear(y, f"{name}.up_proj", (c.intermediate_size, c.hidden_size), bias=c.mlp_bias)
    return d.linear(d.gated(gate, up), f"{name}.down_proj", (c.hidden_size, c.intermediate_size), bias=c.mlp_bias)
