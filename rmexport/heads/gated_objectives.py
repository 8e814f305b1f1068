"""ArmoRM: a linear reward per objective at the last token, mixed by a gate that reads the end of the prompt.

Formulas: arXiv 2406.12845 and RLHFlow/ArmoRM-Llama3-8B-v0.1's modeling_custom.py. With h the final hidden states:
rewards = h[last] @ W_reg.T; gate = softmax(MLP(h[prompt end]) / temperature) * logit_scale;
score = gate . (rewards @ T).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import number
from rmexport.errors import CheckpointError
from rmexport.graph.vocabulary import Dialect
from rmexport.heads import HeadFacts, HeadSpec
from rmexport.label_names import label_names
from rmruntime.manifest import Output, PositionRule

NAME = "gated_objectives"
REGRESSION, TRANSFORM, SCALE = "regression_layer.weight", "reward_transform_matrix", "gating.logit_scale"

PUBLISHED_OBJECTIVES = (  # in the order of the checkpoint's rows (RLHFlow/RLHF-Reward-Modeling, armo-rm/README.md)
    "helpsteer-helpfulness",
    "helpsteer-correctness",
    "helpsteer-coherence",
    "helpsteer-complexity",
    "helpsteer-verbosity",
    "ultrafeedback-overall_score",
    "ultrafeedback-instruction_following",
    "ultrafeedback-truthfulness",
    "ultrafeedback-honesty",
    "ultrafeedback-helpfulness",
    "beavertails-is_safe",
    "prometheus-score",
    "argilla-overall_quality",
    "argilla-judge_lm",
    "code-complexity",
    "code-style",
    "code-explanation",
    "code-instruction-following",
    "code-readability",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`layers` holds (out, in, has bias) of each linear layer of the gate, in order."""

    objectives: int
    hidden_size: int
    temperature: float
    layers: tuple[tuple[int, int, bool], ...]


def matches(facts: HeadFacts) -> bool:
    """Gate, regression layer with one row an objective (quantile heads have many), and the transform matrix."""
    objectives = facts.config.get("num_objectives")
    has_all = REGRESSION in facts.tensors and TRANSFORM in facts.tensors and SCALE in facts.tensors
    return has_all and "num_quantiles" not in facts.config and facts.tensors[REGRESSION].shape[0] == objectives


def read_spec(facts: HeadFacts) -> HeadSpec:
    """Gate layers from the tensors there are; the gate's position from the chat template."""
    objectives = facts.tensor(REGRESSION).shape[0]
    stated = facts.recipe.objectives if facts.recipe else ()
    names = label_names(facts.config, objectives, stem="objective", published=stated or PUBLISHED_OBJECTIVES)
    header = facts.text.user_turn_end()
    facts.text.check_published(header)
    return HeadSpec(
        positions={
            "score": PositionRule(rule="last"),
            "gate": PositionRule(rule="pattern_start", tokens=facts.text.encode(header), text=header),
        },
        outputs=(
            Output(name="score", per="sequence"),
            Output(name="rewards", per="sequence", labels=names),
            Output(name="gating", per="sequence", labels=names),
        ),
        score="score",
        settings=Settings(
            objectives=objectives,
            hidden_size=facts.hidden_size,
            temperature=number(facts.config, "gating_temperature", default=10.0),
            layers=_gate_layers(facts),
        ),
    )


def build(d: Dialect, spec: HeadSpec, hidden: ir.Value) -> None:
    """score [P], rewards [P, objectives] before the transform, gating [P, objectives] = softmax x logit_scale."""
    s: Settings = spec.settings
    read = d.w.op("Gather", hidden, d.head_index("score"))
    rewards = d.head_linear(read, REGRESSION.removesuffix(".weight"), (s.objectives, s.hidden_size))
    gating = _gate(d, s, d.w.op("Gather", hidden, d.head_index("gate")))
    adjusted = d.w.op("MatMul", rewards, d.fp32_weight(TRANSFORM, (s.objectives, s.objectives)))
    d.w.output("score", d.row_sum(d.w.op("Mul", gating, adjusted), s.objectives), ["P"])
    d.w.output("rewards", rewards, ["P", s.objectives])
    d.w.output("gating", gating, ["P", s.objectives])


def _gate(d: Dialect, s: Settings, z: ir.Value) -> ir.Value:
    for i, (out, inner, bias) in enumerate(s.layers):
        z = d.head_linear(z, f"gating.layers.{i}", (out, inner), bias=bias)
        if i < len(s.layers) - 1:
            z = d.w.op("Relu", z)
    z = d.w.op("Div", z, d.w.constant("gating_temperature", s.temperature, "fp32"))
    return d.w.op("Mul", d.w.op("Softmax", z, axis=-1), d.fp32_weight(SCALE, (1,)))


def reference(spec: HeadSpec, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The published forward, on torch tensors; the dtype is the caller's."""
    s: Settings = spec.settings
    rewards, z = hidden["score"] @ weights[REGRESSION].T, hidden["gate"]
    for i, (_, _, bias) in enumerate(s.layers):
        z = z @ weights[f"gating.layers.{i}.weight"].T
        z = z + weights[f"gating.layers.{i}.bias"] if bias else z
        z = z.relu() if i < len(s.layers) - 1 else z
    gating = (z / s.temperature).softmax(-1) * weights[SCALE][0]
    score = (gating * (rewards @ weights[TRANSFORM])).sum(-1)
    return {"score": score, "rewards": rewards, "gating": gating}


def _gate_layers(facts: HeadFacts) -> tuple[tuple[int, int, bool], ...]:
    """The chain of linear layers, checked against each other and the number of objectives."""
    layers: list[tuple[int, int, bool]] = []
    inner = facts.hidden_size
    while (weight := facts.tensors.get(f"gating.layers.{len(layers)}.weight")) is not None:
        name = f"gating.layers.{len(layers)}"
        if len(weight.shape) != 2 or weight.shape[1] != inner:
            raise CheckpointError(f"{name}.weight has shape {list(weight.shape)}, expected [*, {inner}]")
        layers.append((weight.shape[0], inner, f"{name}.bias" in facts.tensors))
        inner = weight.shape[0]
    if not layers or inner != facts.tensors[REGRESSION].shape[0]:
        rows = facts.tensors[REGRESSION].shape[0]
        raise CheckpointError(f"the gate ends in {inner} outputs after {len(layers)} layers, expected {rows}")
    return tuple(layers)
