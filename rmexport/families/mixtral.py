"""Mixtral: Mistral with routed experts (transformers' modeling_mixtral.py)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import EPSILON, EXPERTS, LENGTH, number, optional_integer
from rmexport.checkpoint.derived_tensors import Derived, TensorAlias, TensorStack
from rmexport.families import ROTARY_BUFFERS, Family
from rmexport.graph.decoder import DecoderConfig, DecoderLayers, decode
from rmexport.graph.decoder_config import activation, decoder_fields
from rmexport.graph.decoder_writer import DecoderWriter
from rmexport.graph.experts import Experts, routed_experts, stacked_experts

_BLOCK = "block_sparse_moe"
_EXPERTS = {
    f"{_BLOCK}.experts.{name}": f"{_BLOCK}.experts.{{}}.{theirs}.weight"
    for name, theirs in (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2"))
}


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(DecoderConfig):
    """A decoder whose every MLP is routed."""

    experts: Experts


def read_config(raw: Mapping[str, Any]) -> MixtralConfig:
    """Parse config.json; raises CheckpointError or UnsupportedModel for what this backbone cannot be."""
    fields = decoder_fields({"rope_theta": 1e6, "num_key_value_heads": 8, **raw})  # MixtralConfig's defaults
    fields["norm_eps"] = number(raw, "rms_norm_eps", EPSILON, default=1e-5)
    fields["windows"] = (optional_integer(raw, "sliding_window", LENGTH),) * fields["num_hidden_layers"]
    experts = Experts(
        count=optional_integer(raw, "num_local_experts", EXPERTS) or 8,
        chosen=optional_integer(raw, "num_experts_per_tok", EXPERTS) or 2,
        hidden_size=fields["hidden_size"],
        inner_size=fields["intermediate_size"],
        normalized=True,
        activation=activation(raw, "hidden_act", known=("silu",)),
    )
    return MixtralConfig(**fields, experts=experts)


def derived(c: MixtralConfig) -> Mapping[str, Derived]:
    """The experts' weights, of which the checkpoint holds one tensor per expert."""
    made: dict[str, Derived] = {}
    for i in range(c.num_hidden_layers):
        made |= stacked_experts(f"model.layers.{i}", _EXPERTS, c.experts.count)
    return made


def reference_tensor(c: MixtralConfig, name: str) -> Derived | None:
    """transformers 5 has all experts in one parameter, each one's gate and up together, in a block named `mlp`."""
    layer, _, part = f"model.{name}".partition(".mlp.")
    if part == "gate.weight":
        return TensorAlias(source=f"{layer}.{_BLOCK}.gate.weight")
    held = {"experts.gate_up_proj": ("w1", "w3"), "experts.down_proj": ("w2",)}.get(part, ())
    experts = f"{layer}.{_BLOCK}.experts"
    sources = tuple(f"{experts}.{i}.{weight}.weight" for i in range(c.experts.count) for weight in held)
    return TensorStack(sources=sources) if sources else None


class MixtralLayers(DecoderLayers):
    """Llama's with experts."""

    c: MixtralConfig

    def is_routed(self, i: int) -> bool:
        return True

    def mlp(self, i: int, y: ir.Value) -> ir.Value:
        block = f"{self.layer(i)}.{_BLOCK}"
        return routed_experts(self.d, y, f"{block}.gate", f"{block}.experts", self.c.experts)


def backbone(d: DecoderWriter, c: MixtralConfig) -> ir.Value:
    """Final hidden states of the scored tokens, fp32 [N, hidden]."""
    return decode(MixtralLayers(d, c))


FAMILY = Family(
    model_types=("mixtral",),
    embedding="model.embed_tokens.weight",
    lm_head="lm_head.weight",
    ignored=ROTARY_BUFFERS,
    read_config=read_config,
    backbone=backbone,
    derived=derived,
    reference_tensor=reference_tensor,
)
