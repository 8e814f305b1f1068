"""InternLM2 and 2.5: Llama under other names, with one projection for queries, keys and values.

Source: internlm/internlm2-7b-reward, modeling_internlm2.py: the rows of `wqkv` are "(h gs d)", for each key head its
query heads, then the key, then the value; w2(silu(w1 x) * w3 x); `bias` is that of wqkv and wo. transformers has no
such class, so the weights here carry the names of its Llama, which computes the same.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import flag
from rmexport.checkpoint.derived_tensors import Derived, TensorAlias, TensorRows
from rmexport.families import ROTARY_BUFFERS, Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter

_EMBEDDING = "model.tok_embeddings.weight"
_NAMES = {
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
}


def read_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    bias = _has_bias(raw)
    return DecoderConfig(
        **decoder_fields(raw),
        activation=activation(raw, "hidden_act", known=("silu",)),
        qkv_bias=bias,
        output_bias=bias,
    )


def derived(c: DecoderConfig) -> Mapping[str, Derived]:
    """Every weight of the backbone except the last norm, under Llama's names."""
    made: dict[str, Derived] = {"model.embed_tokens.weight": TensorAlias(source=_EMBEDDING)}
    projections = _projections(c)
    for i in range(c.num_hidden_layers):
        layer = f"model.layers.{i}"
        for kind in ("weight", "bias"):
            for name, rows in projections.items():
                made[f"{layer}.self_attn.{name}.{kind}"] = TensorRows(
                    source=f"{layer}.attention.wqkv.{kind}", rows=rows
                )
            for name, source in _NAMES.items():
                made[f"{layer}.{name}.{kind}"] = TensorAlias(source=f"{layer}.{source}.{kind}")
    return made


def _projections(c: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Rows of `wqkv`."""
    group = c.num_attention_heads // c.num_key_value_heads
    places = {"q_proj": range(group), "k_proj": (group,), "v_proj": (group + 1,)}
    return {
        name: tuple(
            (kv_head * (group + 2) + place) * c.head_dim + row
            for kv_head in range(c.num_key_value_heads)
            for place in within
            for row in range(c.head_dim)
        )
        for name, within in places.items()
    }


def reference_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the Llama that computes the same."""
    return {**raw, "model_type": "llama", "attention_bias": _has_bias(raw), "mlp_bias": False}


def reference_tensor(c: DecoderConfig, name: str) -> Derived | None:
    """What that Llama's parameter is made of; None where the checkpoint has it under the same name."""
    return derived(c).get(f"model.{name}")


def _has_bias(raw: Mapping[str, Any]) -> bool:
    return flag({"bias": True, **raw}, "bias")  # InternLM2Config's default


def backbone(d: DecoderWriter, c: DecoderConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(DecoderLayers(d, c))


FAMILY = Family(
    model_types=("internlm2",),
    embedding=_EMBEDDING,
    lm_head="output.weight",
    ignored=ROTARY_BUFFERS,
    default_pad_id=2,
    read_config=read_config,
    backbone=backbone,
    derived=derived,
    reference_config=reference_config,
    reference_tensor=reference_tensor,
)
