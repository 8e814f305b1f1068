"""ArmoRM: a linear reward per objective at the last token, mixed by a gate that reads the end of the prompt.

Formulas: arXiv 2406.12845 and RLHFlow/ArmoRM-Llama3-8B-v0.1's modeling_custom.py. With h the final hidden states:
rewards = h[last] @ W_reg.T; gate = softmax(MLP(h[prompt end]) / temperature) * logit_scale;
score = gate . (rewards @ T).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import FACTOR, number
from rmexport.errors import CheckpointError
from rmexport.graph.feed_forward import FeedForward, read_feed_forward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmexport.prompt.score_position import prompt_end
from rmruntime.bundle.manifest import Output, PositionRule

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
class GatedObjectives(Head):
    """ArmoRM's settings: `gate` are its layers, which end in one output per objective."""

    objectives: int
    hidden_size: int
    temperature: float
    gate: FeedForward

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], rewards [P, objectives] before the transform, gating [P, objectives] = softmax x logit_scale."""
        read = h.read(hidden, "score")
        rewards = h.linear(read, REGRESSION.removesuffix(".weight"), (self.objectives, self.hidden_size))
        gating = self._gate(h, h.read(hidden, "gate"))
        adjusted = h.w.op("MatMul", rewards, h.weight(TRANSFORM, (self.objectives, self.objectives)))
        h.w.output("score", h.row_sum(h.w.op("Mul", gating, adjusted), self.objectives), ["P"])
        h.w.output("rewards", rewards, ["P", self.objectives])
        h.w.output("gating", gating, ["P", self.objectives])

    def _gate(self, h: HeadWriter, z: ir.Value) -> ir.Value:
        z = h.w.op("Div", self.gate.build(h, z), h.w.constant("gating_temperature", self.temperature, "fp32"))
        return h.w.op("Mul", h.w.op("Softmax", z, axis=-1), h.weight(SCALE, (1,)))

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The published forward, on torch tensors; the dtype is the caller's."""
        rewards = hidden["score"] @ weights[REGRESSION].T
        gating = (self.gate.reference(hidden["gate"], weights) / self.temperature).softmax(-1) * weights[SCALE][0]
        score = (gating * (rewards @ weights[TRANSFORM])).sum(-1)
        return {"score": score, "rewards": rewards, "gating": gating}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """Gate, regression layer with one row per objective (quantile heads have several), and the transform matrix."""
    needed = (REGRESSION, TRANSFORM, SCALE)
    if not all(name in facts.tensors for name in needed) or "num_quantiles" in facts.config:
        return ()
    if facts.tensors[REGRESSION].shape[0] != facts.config.get("num_objectives"):
        return ()
    return (*needed, *(name for name in facts.tensors if name.startswith("gating.")))


def read(facts: HeadFacts) -> GatedObjectives:
    """Gate layers from the tensors there are; the gate's position from the chat template."""
    objectives = facts.tensor(REGRESSION).shape[0]
    names = facts.objective_names(objectives, stem="objective", published=PUBLISHED_OBJECTIVES)
    return GatedObjectives(
        positions={
            "score": PositionRule(rule="last"),
            "gate": prompt_end(facts.text),
        },
        outputs=(
            Output(name="score", per="sequence"),
            Output(name="rewards", per="sequence", labels=names),
            Output(name="gating", per="sequence", labels=names),
        ),
        objectives=objectives,
        hidden_size=facts.hidden_size,
        temperature=number(facts.config, "gating_temperature", FACTOR, default=10.0),
        gate=_gate_layers(facts),
    )


def _gate_layers(facts: HeadFacts) -> FeedForward:
    """The chain of linear layers, checked against each other and the number of objectives."""
    count = len([name for name in facts.tensors if re.fullmatch(r"gating\.layers\.\d+\.weight", name)])
    names = [f"gating.layers.{i}" for i in range(max(1, count))]
    gate, rows = read_feed_forward(facts.tensors, names, facts.hidden_size), facts.tensors[REGRESSION].shape[0]
    if gate.layers[-1].outputs != rows:
        raise CheckpointError(
            f"the gate ends in {gate.layers[-1].outputs} outputs, expected {rows}, one per objective: do config and "
            "weights belong together?"
        )
    return gate


HEAD = ScoringHead(
    name="gated_objectives",
    recipe_fields=("objectives",),
    claims=claims,
    read=read,
)
