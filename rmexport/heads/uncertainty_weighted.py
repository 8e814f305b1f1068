"""URM: the means of normally distributed attribute rewards, weighted by a small network on the same token.

Formulas: arXiv 2410.00847 and SGLang's LlamaForSequenceClassificationWithNormal_Weights (models/llama_reward.py). With
h the last token's hidden state: (mean, spread) of each attribute = score(h); score = sum of means x weights.fc(h), the
weights not normalised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.errors import CheckpointError
from rmexport.graph.feed_forward import FeedForward, read_feed_forward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmruntime.bundle.manifest import Output

SCORE = "score"
WEIGHTING = ("weights.fc.0", "weights.fc.2", "weights.fc.4")


@dataclass(frozen=True, kw_only=True)
class UncertaintyWeighted(Head):
    """`weighting` ends in one output per attribute; the score layer has two rows for each, mean and spread."""

    attributes: int
    hidden_size: int
    weighting: FeedForward

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], rewards [P, attributes], the means, and gating [P, attributes], their weights."""
        read = h.read(hidden, "score")
        pairs = h.linear(read, SCORE, (2 * self.attributes, self.hidden_size))
        means = h.w.op("Gather", pairs, h.w.constant("means", [2 * i for i in range(self.attributes)]), axis=1)
        weights = self.weighting.build(h, read)
        h.w.output("score", h.row_sum(h.w.op("Mul", means, weights), self.attributes), ["P"])
        h.w.output("rewards", means, ["P", self.attributes])
        h.w.output("gating", weights, ["P", self.attributes])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The published forward, on torch tensors; the dtype is the caller's (published: fp16 for weights.fc)."""
        means = (hidden["score"] @ weights[f"{SCORE}.weight"].T).reshape(-1, self.attributes, 2)[:, :, 0]
        gating = self.weighting.reference(hidden["score"], weights)
        return {"score": (means * gating).sum(-1), "rewards": means, "gating": gating}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """The weighting network beside a plain classifier's layer."""
    own = tuple(name for name in facts.tensors if name.startswith("weights.fc."))
    return (f"{SCORE}.weight", *own) if own and f"{SCORE}.weight" in facts.tensors else ()


def read(facts: HeadFacts) -> UncertaintyWeighted:
    """The number of attributes from the layers' widths. Raises CheckpointError where the two layers differ in it."""
    rows = facts.tensor(f"{SCORE}.weight").shape[0]
    weighting = read_feed_forward(facts.tensors, WEIGHTING, facts.hidden_size, "selu")
    if rows != 2 * (attributes := weighting.layers[-1].outputs):
        raise CheckpointError(
            f"{SCORE}.weight has {rows} rows and {WEIGHTING[-1]} {attributes} outputs, expected {2 * attributes} "
            "rows: a mean and a spread per attribute"
        )
    names = facts.objective_names(attributes, stem="attribute")
    return UncertaintyWeighted(
        positions={"score": facts.score_rule("last")},
        outputs=(
            Output(name="score", per="sequence"),
            Output(name="rewards", per="sequence", labels=names),
            Output(name="gating", per="sequence", labels=names),
        ),
        attributes=attributes,
        hidden_size=facts.hidden_size,
        weighting=weighting,
    )


HEAD = ScoringHead(
    name="uncertainty_weighted",
    recipe_fields=("position", "objectives"),
    claims=claims,
    read=read,
)
