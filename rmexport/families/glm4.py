"""GLM-4-0414: four norms per layer, neighbours rotated in half of each head, a fused MLP (modeling_glm4.py)."""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag
from rmexport.checkpoint.derived_tensors import Derived, TensorRows
from rmexport.families import Family
from rmexport.graph.decoder import DecoderConfig, FourNormLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter
from rmexport.graph.partial_rotary import interleaved_order

# Of absent fields.
DEFAULTS = {"num_key_value_heads": 2, "rms_norm_eps": 1.5625e-7, "partial_rotary_factor": 0.5, "attention_bias": True}
HEAD_DIM = 128


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    raw = {**DEFAULTS, **raw}
    return DecoderConfig(
        **decoder_fields(raw, head_dim=HEAD_DIM, partial=True),
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=flag(raw, "attention_bias"),
    )


def derived(c: DecoderConfig) -> Mapping[str, Derived]:
    """Rows of queries and keys in the order in which halves are rotated, and of `gate_up_proj`, [gate, up]."""
    rotated, inner = int(c.head_dim * c.ropes[0].partial), c.intermediate_size
    heads = {"q_proj": c.num_attention_heads, "k_proj": c.num_key_value_heads}
    orders = {name: interleaved_order(count, c.head_dim, rotated) for name, count in heads.items()}
    parts = {"gate_proj": tuple(range(inner)), "up_proj": tuple(range(inner, 2 * inner))}
    made: dict[str, Derived] = {}
    for i in range(c.num_hidden_layers):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        for name, rows in orders.items():
            for kind in ("weight", "bias"):
                made[f"{attention}.{name}.{kind}"] = TensorRows(source=f"{attention}.{name}.{kind}", rows=rows)
        for name, rows in parts.items():
            made[f"{mlp}.{name}.weight"] = TensorRows(source=f"{mlp}.gate_up_proj.weight", rows=rows)
    return made


class Glm4Layers(FourNormLayers):
    """GLM's names of the four norms."""

    AFTER_ATTENTION = "post_self_attn_layernorm"
    BEFORE_MLP, AFTER_MLP = "post_attention_layernorm", "post_mlp_layernorm"


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(Glm4Layers(d, c))


FAMILY = Family(
    model_types=("glm4",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    default_pad_id=151_329,
    read_config=read_config,
    backbone=backbone,
    derived=derived,
)
