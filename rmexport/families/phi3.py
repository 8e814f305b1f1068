"""Phi-3, Phi-3.5 and Phi-4: Llama with fused projections, partial and long rope (transformers' modeling_phi3.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import EPSILON, LENGTH, number, optional_integer
from rmexport.checkpoint.derived_tensors import Derived, TensorRows
from rmexport.families import ROTARY_BUFFERS, Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter
from rmexport.graph.partial_rotary import rotary_order

_LONGROPE = ("longrope", "su", "yarn")  # yarn too: no Phi-3 ever had the rope of that name
_ORIGINAL_LENGTH = 4096  # of Phi3Config, where config.json has none


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    fields = decoder_fields(_with_longrope(raw), partial=True)
    fields["norm_eps"] = number(raw, "rms_norm_eps", EPSILON, default=1e-5)
    fields["windows"] = (optional_integer(raw, "sliding_window", LENGTH),) * fields["num_hidden_layers"]
    return DecoderConfig(**fields, activation=activation(raw, "hidden_act", known=("silu",)))


def _with_longrope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The long rope as later releases spell it: first "su" or "yarn", its original length beside it, never inside."""
    original = optional_integer(raw, "original_max_position_embeddings", LENGTH) or _ORIGINAL_LENGTH
    standard = {**raw, "original_max_position_embeddings": original}
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(found := raw.get(name), dict) and str(found.get("rope_type") or found.get("type")) in _LONGROPE:
            standard[name] = {**found, "rope_type": "longrope", "original_max_position_embeddings": original}
    return standard


def derived(c: DecoderConfig) -> Mapping[str, Derived]:
    """Rows of `qkv_proj`, [query, key, value], and of `gate_up_proj`, [gate, up]."""
    rotated = int(c.head_dim * c.ropes[0].partial)
    q = rotary_order(c.num_attention_heads, c.head_dim, rotated)
    k = tuple(c.query_size + row for row in rotary_order(c.num_key_value_heads, c.head_dim, rotated))
    v = tuple(range(c.query_size + c.key_size, c.query_size + 2 * c.key_size))
    gate, up = tuple(range(c.intermediate_size)), tuple(range(c.intermediate_size, 2 * c.intermediate_size))
    fused = {
        "self_attn.qkv_proj": {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v},
        "mlp.gate_up_proj": {"mlp.gate_proj": gate, "mlp.up_proj": up},
    }
    return {
        f"model.layers.{i}.{name}.weight": TensorRows(source=f"model.layers.{i}.{source}.weight", rows=rows)
        for i in range(c.num_hidden_layers)
        for source, parts in fused.items()
        for name, rows in parts.items()
    }


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=("phi3",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=ROTARY_BUFFERS,
    default_pad_id=32000,
    read_config=read_config,
    backbone=backbone,
    derived=derived,
)
