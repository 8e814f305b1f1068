"""LDL: a distribution over ten levels for every objective, mixed by a gate on the same token.

Source: rewardbench/models/ldlreward.py in allenai/reward-bench (LDL-Reward-Gemma-2-27B). With h the read token's hidden
state: bins = softmax over levels of regression(h) as [objectives, 10]; gate = gating(h), softmax(gating(h) /
temperature) where config.json has `softmax`; score = sum of (gate @ bins) x linspace(0, 1, 10).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rmexport.checkpoint.config_fields import FACTOR, flag, number
from rmexport.checkpoint.label_names import label_names
from rmexport.errors import CheckpointError
from rmexport.graph.feed_forward import FeedForward, read_feed_forward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmruntime.bundle.manifest import Output

LEVELS = 10
REGRESSION = tuple(f"regression_layer.network.{i}" for i in (0, 2, 4))
GATING = tuple(f"gating_layer.network.{i}" for i in (0, 3, 6))  # a dropout follows each activation


@dataclass(frozen=True, kw_only=True)
class LabelDistribution(Head):
    """`regression` ends in ten outputs per objective, `gate` in one; `temperature` is None without a softmax."""

    objectives: int
    regression: FeedForward
    gate: FeedForward
    temperature: float | None

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], rewards [P, objectives], each distribution's mean, and gating [P, objectives]."""
        read = h.read(hidden, "score")
        flat = h.w.op("Reshape", self.regression.build(h, read), h.w.constant("by_level", [-1, LEVELS]))
        worth = h.w.constant("worth", np.linspace(0, 1, LEVELS), "fp32")
        expected = h.row_sum(h.w.op("Mul", h.w.op("Softmax", flat, axis=-1), worth), LEVELS)
        rewards = h.w.op("Reshape", expected, h.w.constant("by_objective", [-1, self.objectives]))
        gating = self._gate(h, read)
        h.w.output("score", h.row_sum(h.w.op("Mul", gating, rewards), self.objectives), ["P"])
        h.w.output("rewards", rewards, ["P", self.objectives])
        h.w.output("gating", gating, ["P", self.objectives])

    def _gate(self, h: HeadWriter, read: ir.Value) -> ir.Value:
        z = self.gate.build(h, read)
        if self.temperature is None:
            return z
        return h.w.op("Softmax", h.w.op("Div", z, h.w.constant("temperature", self.temperature, "fp32")), axis=-1)

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The published forward, on torch tensors; the dtype is the caller's."""
        bins = self.regression.reference(hidden["score"], weights).reshape(-1, self.objectives, LEVELS).softmax(-1)
        gating = self.gate.reference(hidden["score"], weights)
        if self.temperature is not None:
            gating = (gating / self.temperature).softmax(-1)
        worth = bins.new_tensor([level / (LEVELS - 1) for level in range(LEVELS)])
        mixed = (gating[:, :, None] * bins).sum(1)
        return {"score": (mixed * worth).sum(-1), "rewards": (bins * worth).sum(-1), "gating": gating}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """Both networks, which the published checkpoint has in files of their own."""
    if not {f"{REGRESSION[0]}.weight", f"{GATING[0]}.weight"} <= set(facts.tensors):
        return ()
    return tuple(name for name in facts.tensors if name.startswith(("regression_layer.", "gating_layer.")))


def read(facts: HeadFacts) -> LabelDistribution:
    """The layers, as the tensors have them. Raises CheckpointError where the two networks differ in the objectives."""
    regression = read_feed_forward(facts.tensors, REGRESSION, facts.hidden_size, "leaky_relu")
    gate = read_feed_forward(facts.tensors, GATING, facts.hidden_size, "leaky_relu")
    objectives, outputs = gate.layers[-1].outputs, regression.layers[-1].outputs
    if outputs != LEVELS * objectives:
        raise CheckpointError(
            f"{REGRESSION[-1]} has {outputs} outputs and {GATING[-1]} {objectives}, expected {LEVELS} levels for "
            f"each of {objectives} objectives, {LEVELS * objectives} outputs"
        )
    names = label_names(facts.config, objectives, stem="objective")
    temperature = number(facts.config, "temperature", FACTOR, default=1.0) if flag(facts.config, "softmax") else None
    return LabelDistribution(
        positions={"score": facts.score_rule("before_first_pad")},
        outputs=(
            Output(name="score", per="sequence"),
            Output(name="rewards", per="sequence", labels=names),
            Output(name="gating", per="sequence", labels=names),
        ),
        objectives=objectives,
        regression=regression,
        gate=gate,
        temperature=temperature,
        ignored=(facts.lm_head,),
    )


HEAD = ScoringHead(
    name="label_distribution",
    claims=claims,
    read=read,
)
