"""A classifier on the mean of all tokens' final hidden states, of bidirectional rerankers, divided by a temperature.

Source: NVIDIA-NeMo/Automodel, llama_bidirectional/model.py: pooling `avg`, then `score`, then `logits / temperature`.
The graph applies the layer to every token, and the mean is of its values, which is the same: mean(h) @ w = mean(h @ w).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import FACTOR, number, shown
from rmexport.errors import CheckpointError, UnsupportedModel
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmruntime.bundle.manifest import Output, PositionRule

CLASS = "LlamaBidirectionalForSequenceClassification"
WEIGHT = "score.weight"


@dataclass(frozen=True, kw_only=True)
class MeanClassification(Head):
    """One row, and the number that its values are divided by."""

    hidden_size: int
    temperature: float

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P]: raw logits, of which a conversation's score is the mean over its tokens."""
        logits = h.linear(h.read(hidden, "score"), "score", (1, self.hidden_size))
        if self.temperature != 1.0:
            logits = h.w.op("Div", logits, h.w.constant("temperature", self.temperature, "fp32"))
        h.w.output("score", h.w.op("Gather", logits, h.w.constant("only_row", 0), axis=1), ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """Every token's part of the mean, on torch tensors."""
        return {"score": (hidden["score"] @ weights[WEIGHT].T)[:, 0] / self.temperature}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """A `score.weight` under the class of bidirectional rerankers."""
    if facts.architecture != CLASS or WEIGHT not in facts.tensors:
        return ()
    return (WEIGHT, f"{CLASS} in config.json")


def read(facts: HeadFacts) -> MeanClassification:
    """Raises UnsupportedModel for another pooling than the mean, CheckpointError for several labels."""
    pooling = facts.config.get("pooling", "avg")
    if pooling != "avg":
        raise UnsupportedModel(f"config.json: pooling is {shown(pooling)}, of which 'avg' alone is supported")
    rows = facts.tensor(WEIGHT).shape[0]
    if rows != 1:
        raise CheckpointError(f"{WEIGHT} has {rows} rows, expected the one of a reranker")
    return MeanClassification(
        positions={"score": PositionRule(rule="every")},
        outputs=(Output(name="score", per="sequence", mean=True),),
        hidden_size=facts.hidden_size,
        temperature=number(facts.config, "temperature", FACTOR, default=1.0),
        ignored=(facts.lm_head,),
    )


HEAD = ScoringHead(
    name="mean_classification",
    recipe_fields=(),
    default_recipe="llama-nemotron-rerank",
    claims=claims,
    read=read,
)
