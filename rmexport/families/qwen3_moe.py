"""Qwen3-MoE: Qwen3's attention, routed experts in most layers, dense MLPs in the others.

Source: transformers' modeling_qwen3_moe.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import EXPERTS, FEATURES, LAYERS, LENGTH, flag, optional_integer
from rmexport.checkpoint.derived_tensors import Derived, TensorStack
from rmexport.errors import CheckpointError
from rmexport.families import ROTARY_BUFFERS, Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter
from rmexport.graph.experts import Experts, routed_experts, stacked_experts

_EXPERTS = {f"mlp.experts.{name}": f"mlp.experts.{{}}.{name}.weight" for name in ("gate_proj", "up_proj", "down_proj")}


@dataclass(frozen=True, kw_only=True)
class Qwen3MoeConfig(DecoderConfig):
    """`routed`: for every layer, whether its MLP is `experts`."""

    experts: Experts
    routed: tuple[bool, ...]


def read_config(raw: Mapping[str, Any]) -> Qwen3MoeConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    fields = decoder_fields({"num_key_value_heads": 4, **raw})  # Qwen3MoeConfig's default
    if flag(raw, "use_sliding_window"):
        window = optional_integer({"sliding_window": 4096, **raw}, "sliding_window", LENGTH)
        fields["windows"] = (window,) * fields["num_hidden_layers"]
    bias, act = flag(raw, "attention_bias"), activation(raw, "hidden_act", known=("silu",))
    local = optional_integer(raw, "num_local_experts", EXPERTS)  # what transformers 5 writes
    experts = Experts(
        count=optional_integer(raw, "num_experts", EXPERTS) or local or 128,
        chosen=optional_integer(raw, "num_experts_per_tok", EXPERTS) or 8,
        hidden_size=fields["hidden_size"],
        inner_size=optional_integer(raw, "moe_intermediate_size", FEATURES) or 768,
        normalized=flag(raw, "norm_topk_prob"),
        activation=act,
    )
    routed = _routed(raw, fields["num_hidden_layers"])
    return Qwen3MoeConfig(
        **fields,
        activation=act,
        qkv_bias=bias,
        output_bias=bias,
        head_norms=True,
        experts=experts,
        routed=routed,
    )


def _routed(raw: Mapping[str, Any], layers: int) -> tuple[bool, ...]:
    """Every `decoder_sparse_step`-th layer, without `mlp_only_layers`."""
    dense, step = raw.get("mlp_only_layers") or [], optional_integer(raw, "decoder_sparse_step", LAYERS) or 1
    if not isinstance(dense, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in dense):
        raise CheckpointError(f"config.json: mlp_only_layers is {dense!r}, expected a list of layers' numbers")
    return tuple((i + 1) % step == 0 and i not in dense for i in range(layers))


def derived(c: Qwen3MoeConfig) -> Mapping[str, Derived]:
    """The experts' weights, of which the checkpoint holds one tensor per expert."""
    made: dict[str, Derived] = {}
    for i in (i for i, routed in enumerate(c.routed) if routed):
        made |= stacked_experts(f"model.layers.{i}", _EXPERTS, c.experts.count)
    return made


def reference_tensor(c: Qwen3MoeConfig, name: str) -> Derived | None:
    """transformers 5 has all experts in one parameter, each one's gate and up together."""
    block, _, part = f"model.{name}".rpartition(".")
    held = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}.get(part, ())
    sources = tuple(f"{block}.{i}.{weight}.weight" for i in range(c.experts.count) for weight in held)
    return TensorStack(sources=sources) if sources else None


class Qwen3MoeLayers(DecoderLayers):
    """Llama's with experts in some layers."""

    c: Qwen3MoeConfig

    def is_routed(self, i: int) -> bool:
        return self.c.routed[i]

    def mlp(self, i: int, y: ir.Value) -> ir.Value:
        block = f"{self.layer(i)}.mlp"
        if not self.is_routed(i):
            return super().mlp(i, y)
        return routed_experts(self.d, y, f"{block}.gate", f"{block}.experts", self.c.experts)


def backbone(d: DecoderWriter, c: Qwen3MoeConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(Qwen3MoeLayers(d, c))


FAMILY = Family(
    model_types=("qwen3_moe",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=ROTARY_BUFFERS,
    read_config=read_config,
    backbone=backbone,
    derived=derived,
    reference_tensor=reference_tensor,
)
