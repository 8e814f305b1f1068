"""PKU's beaver: one linear layer on the last token, normalised where the config asks for it.

Source: PKU-Alignment/safe-rlhf, safe_rlhf/models/score_model/__init__.py and models/normalizer.py: a reward model has
(x - mean) / (sqrt(var) + 1e-8), a cost model x / (sqrt(var) + 1e-8), a critic x.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import onnx_ir as ir

from rmexport.checkpoint.config_fields import DEVIATION, STATISTIC, Range, flag, shown
from rmexport.errors import CheckpointError
from rmexport.graph.feed_forward import FeedForward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead

LAYER, MEAN, VARIANCE = "score_head", "normalizer.mean", "normalizer.var"
EPSILON = 1e-8

Normalize = Literal["affine", "scale", "identity"]
_BY_SCORE_TYPE: Mapping[str, Normalize] = {"reward": "affine", "cost": "scale", "critic": "identity"}


@dataclass(frozen=True, kw_only=True)
class BeaverScore(Head):
    """A linear layer with a normaliser: `mean` and `variance` from config.json, None where they are tensors."""

    value: FeedForward
    normalize: Normalize
    mean: float | None
    variance: float | None
    negate: bool

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P]."""
        values = self.value.build_value(h, hidden)
        if self.normalize == "affine":
            values = h.w.op("Sub", values, _number(h, MEAN, self.mean))
        if self.normalize != "identity":
            deviation = h.w.op("Sqrt", _number(h, VARIANCE, self.variance))
            values = h.w.op("Div", values, h.w.op("Add", deviation, h.w.constant("epsilon", EPSILON, "fp32")))
        if self.negate:
            values = h.w.op("Neg", values)
        h.w.output("score", values, ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """ScoreModelMixin.get_scores at the end index, on torch tensors; the dtype is the caller's."""
        values = self.value.reference(hidden["score"], weights)[:, 0]
        if self.normalize == "affine":
            values = values - (weights[MEAN] if self.mean is None else self.mean)
        if self.normalize != "identity":
            variance = weights[VARIANCE] if self.variance is None else self.variance
            values = values / (variance**0.5 + EPSILON)
        return {"score": -values if self.negate else values}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """`score_head`, its bias and the normaliser's buffers."""
    if f"{LAYER}.weight" not in facts.tensors:
        return ()
    return tuple(name for name in facts.tensors if name.startswith((f"{LAYER}.", "normalizer.")))


def read(facts: HeadFacts) -> BeaverScore:
    """One value at the last token; a recipe may turn a cost into a reward."""
    facts.tensor(f"{LAYER}.weight")
    kind = facts.config.get("score_type") or "reward"
    if not isinstance(kind, str) or kind not in _BY_SCORE_TYPE:
        raise CheckpointError(f"config.json: score_type is {shown(kind)}, expected one of {', '.join(_BY_SCORE_TYPE)}")
    negate = facts.recipe is not None and facts.recipe.negate
    return BeaverScore(
        positions={"score": facts.score_rule("last")},
        value=facts.linear_value(LAYER),
        normalize=_BY_SCORE_TYPE[kind] if flag(facts.config, "do_normalize") else "identity",
        mean=_stated(facts, "mean", MEAN, STATISTIC, default=0.0),
        variance=_stated(facts, "var", VARIANCE, Range(0, DEVIATION.most), default=1.0),
        negate=negate,
        ignored=("normalizer.*", facts.lm_head),
        notes=_notes(kind, negate=negate),
    )


def _number(h: HeadWriter, name: str, stated: float | None) -> ir.Value:
    return h.weight(name, (1,)) if stated is None else h.w.constant(name, [stated], "fp32")


def _stated(facts: HeadFacts, field: str, tensor: str, within: Range, *, default: float) -> float | None:
    """The number in a config.json field, a list of one; None where the checkpoint has `tensor`, which takes precedence.

    `from_pretrained` prefers the tensor too.
    """
    if tensor in facts.tensors:
        return None
    value = facts.config.get(field)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if value is None:
        return default
    if not within.holds(value):
        raise CheckpointError(
            f"config.json: {field} is {shown(value)}, expected one number {within}; restore the original"
        )
    return float(value)


def _notes(kind: str, *, negate: bool) -> tuple[str, ...]:
    if kind != "cost" or negate:
        return ()
    return ("a cost model: the higher the score, the more harmful the answer (--recipe beaver-cost negates it)",)


HEAD = ScoringHead(
    name="safe_rlhf",
    recipe_fields=("position", "negate"),
    claims=claims,
    read=read,
)
