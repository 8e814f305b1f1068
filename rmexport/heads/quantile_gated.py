"""QRM: quantiles of every objective's reward at the last token, their means mixed by a gate that reads the prompt.

Formulas: arXiv 2409.10164 and the class that allenai/reward-bench carries (rewardbench/models/qrm.py). With h the final
hidden states: r = mean over quantiles of (h[last] @ W_reg.T) @ T; gate = softmax(G(h[prompt end]) / temperature) *
logit_scale; score = gate . r. G is linear layers with ReLU between, and a BatchNorm behind each ReLU where the
checkpoint has them. QRM on Gemma 2 (Gemma2ForQuantileSequenceClassification) has no T, and other defaults.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint import TensorInfo
from rmexport.checkpoint.config_fields import FACTOR, LABELS, integer, number, optional_integer
from rmexport.errors import CheckpointError
from rmexport.graph.feed_forward import FeedForward, read_feed_forward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmexport.prompt.score_position import prompt_end
from rmruntime.bundle.manifest import Output

REGRESSION, TRANSFORM, SCALE = "regression_layer.weight", "reward_transform_matrix", "gating.logit_scale"
ON_GEMMA2 = "Gemma2ForQuantileSequenceClassification"  # which has no transform matrix
EPSILON = 1e-5  # torch's for BatchNorm1d, which the published class leaves as it is


@dataclass(frozen=True, kw_only=True)
class GateStage:
    """A linear layer of the gate, and the name of the BatchNorm after its ReLU, if there is one."""

    linear: FeedForward
    norm: str | None


@dataclass(frozen=True, kw_only=True)
class QuantileGated(Head):
    """QRM's settings: `gate` ends in one output per objective; its last stage has neither ReLU nor norm.

    `transform`: whether means are multiplied by a matrix.
    """

    objectives: int
    quantiles: int
    hidden_size: int
    temperature: float
    gate: tuple[GateStage, ...]
    transform: bool = True

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], rewards [P, objectives] after any transform, gating [P, objectives] = softmax x logit_scale."""
        rewards = self._means(h, h.read(hidden, "score"))
        if self.transform:
            rewards = h.w.op("MatMul", rewards, h.weight(TRANSFORM, (self.objectives, self.objectives)))
        gating = self._gate(h, h.read(hidden, "gate"))
        h.w.output("score", h.row_sum(h.w.op("Mul", gating, rewards), self.objectives), ["P"])
        h.w.output("rewards", rewards, ["P", self.objectives])
        h.w.output("gating", gating, ["P", self.objectives])

    def _means(self, h: HeadWriter, read: ir.Value) -> ir.Value:
        """The mean of each objective's quantiles, [P, objectives]; the layer's rows are grouped by objective."""
        quantiles = h.linear(
            read, REGRESSION.removesuffix(".weight"), (self.objectives * self.quantiles, self.hidden_size)
        )
        flat = h.w.op("Reshape", quantiles, h.w.constant("by_quantile", [-1, self.quantiles]))
        sums = h.w.op("Reshape", h.row_sum(flat, self.quantiles), h.w.constant("by_objective", [-1, self.objectives]))
        return h.w.op("Div", sums, h.w.constant("quantiles", self.quantiles, "fp32"))

    def _gate(self, h: HeadWriter, z: ir.Value) -> ir.Value:
        for stage in self.gate[:-1]:
            z = h.w.op("Relu", stage.linear.build(h, z))
            z = _batch_norm(h, z, stage.norm, stage.linear.layers[0].outputs) if stage.norm else z
        z = h.w.op(
            "Div", self.gate[-1].linear.build(h, z), h.w.constant("gating_temperature", self.temperature, "fp32")
        )
        return h.w.op("Mul", h.w.op("Softmax", z, axis=-1), h.weight(SCALE, (1,)))

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The published forward, on torch tensors; the dtype is the caller's."""
        quantiles = (hidden["score"] @ weights[REGRESSION].T).reshape(-1, self.objectives, self.quantiles)
        rewards = quantiles.mean(2) @ weights[TRANSFORM] if self.transform else quantiles.mean(2)
        z = hidden["gate"]
        for stage in self.gate[:-1]:
            z = stage.linear.reference(z, weights).relu()
            if stage.norm:
                mean, variance = weights[f"{stage.norm}.running_mean"], weights[f"{stage.norm}.running_var"]
                normal = (z - mean) / (variance + EPSILON).sqrt()
                z = normal * weights[f"{stage.norm}.weight"] + weights[f"{stage.norm}.bias"]
        z = self.gate[-1].linear.reference(z, weights)
        gating = (z / self.temperature).softmax(-1) * weights[SCALE][0]
        return {"score": (gating * rewards).sum(-1), "rewards": rewards, "gating": gating}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """Gate, regression layer and transform matrix, of a config that counts quantiles; on Gemma 2 without the matrix."""
    on_gemma2 = facts.architecture == ON_GEMMA2
    needed = (REGRESSION, SCALE) if on_gemma2 else (REGRESSION, TRANSFORM, SCALE)
    counted = on_gemma2 or "num_quantiles" in facts.config
    if not counted or not all(name in facts.tensors for name in needed):
        return ()
    return (*needed, *(name for name in facts.tensors if name.startswith("gating.")))


def read(facts: HeadFacts) -> QuantileGated:
    """Quantiles and objectives from config.json, gate stages from the tensors, its position from the chat template.

    Raises CheckpointError where the regression layer does not have one row per quantile of each objective.
    """
    on_gemma2 = facts.architecture == ON_GEMMA2
    objectives = optional_integer(facts.config, "num_objectives", LABELS) or (5 if on_gemma2 else 19)  # the classes'
    quantiles = integer({"num_quantiles": 19, **facts.config} if on_gemma2 else facts.config, "num_quantiles", LABELS)
    rows = facts.tensor(REGRESSION).shape[0]
    if rows != objectives * quantiles:
        raise CheckpointError(
            f"{REGRESSION} has {rows} rows, config.json implies {objectives} objectives of {quantiles} quantiles each, "
            f"{objectives * quantiles} rows: do config and weights belong together?"
        )
    names = facts.objective_names(objectives, stem="objective")
    return QuantileGated(
        positions={
            "score": facts.score_rule("before_first_pad"),
            "gate": prompt_end(facts.text),
        },
        outputs=(
            Output(name="score", per="sequence"),
            Output(name="rewards", per="sequence", labels=names),
            Output(name="gating", per="sequence", labels=names),
        ),
        objectives=objectives,
        quantiles=quantiles,
        hidden_size=facts.hidden_size,
        temperature=number(facts.config, "gating_temperature", FACTOR, default=1.0 if on_gemma2 else 10.0),
        gate=_gate_stages(facts, objectives),
        transform=not on_gemma2,
        ignored=tuple(name for name in facts.tensors if name.endswith(".num_batches_tracked")),
        notes=() if on_gemma2 else ("rewards are those after the transform matrix, as the published class gives them",),
    )


def _batch_norm(h: HeadWriter, x: ir.Value, name: str, size: int) -> ir.Value:
    """BatchNorm1d in evaluation mode: `x` normalised with the statistics of the training."""
    mean, variance, scale, shift = (
        h.weight(f"{name}.{part}", (size,)) for part in ("running_mean", "running_var", "weight", "bias")
    )
    spread = h.w.op("Sqrt", h.w.op("Add", variance, h.w.constant("batch_norm_epsilon", EPSILON, "fp32")))
    return h.w.op("Add", h.w.op("Mul", h.w.op("Div", h.w.op("Sub", x, mean), spread), scale), shift)


def _gate_stages(facts: HeadFacts, objectives: int) -> tuple[GateStage, ...]:
    """The linear layers in order, each with the norm between it and the next one."""
    weights = sorted(
        (int(found[1]), info)
        for name, info in facts.tensors.items()
        if (found := re.fullmatch(r"gating\.layers\.(\d+)\.weight", name))
    )
    stages: list[GateStage] = []
    inputs = facts.hidden_size
    for index, info in weights:
        name = f"gating.layers.{index}"
        if len(info.shape) == 1 and stages:
            stages[-1] = GateStage(linear=stages[-1].linear, norm=_checked_norm(facts.tensors, name, inputs))
        else:
            stages.append(GateStage(linear=read_feed_forward(facts.tensors, [name], inputs), norm=None))
            inputs = info.shape[0]
    if not stages or inputs != objectives or stages[-1].norm is not None:
        raise CheckpointError(
            f"the gate ends in {inputs if stages else 'no layer'}, expected a linear layer of {objectives} outputs, "
            "one per objective: do config and weights belong together?"
        )
    return tuple(stages)


def _checked_norm(tensors: Mapping[str, TensorInfo], name: str, size: int) -> str:
    for part in ("weight", "bias", "running_mean", "running_var"):
        info = tensors.get(f"{name}.{part}")
        if info is None or info.shape != (size,):
            found = "missing" if info is None else f"of shape {list(info.shape)}"
            raise CheckpointError(f"{name}.{part} is {found}, expected [{size}], a BatchNorm after a layer of {size}")
    return name


HEAD = ScoringHead(
    name="quantile_gated",
    default_recipe="qrm",
    recipe_fields=("position", "objectives"),
    claims=claims,
    read=read,
)
