"""Process reward models saved as `*ForTokenClassification` with two labels: what TRL's PRMTrainer gives, and PURE.

Source: huggingface/trl, trl/experimental/prm/prm_trainer.py: the last token of the separator behind each step is
labelled, 1 for a right step; score = softmax(logits)[1] = sigmoid(logits[1] - logits[0]).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.errors import UnsupportedModel
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmruntime.bundle.manifest import Output

LABELS = 2  # wrong, right
SUFFIX = "ForTokenClassification"
LAYERS = ("score", "classifier")  # families of transformers name it one way or the other


@dataclass(frozen=True, kw_only=True)
class StepClassification(Head):
    """A token classifier: its linear layer's name, and whether that has a bias, as transformers' class by default."""

    layer: str
    hidden_size: int
    bias: bool

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], the probability of label 1, and logit [P], its log-odds."""
        read = h.read(hidden, "score")
        logits = h.linear(read, self.layer, (LABELS, self.hidden_size), bias=self.bias)
        wrong, right = (h.w.op("Gather", logits, h.w.constant(f"label_{i}", i), axis=1) for i in range(LABELS))
        logit = h.w.op("Sub", right, wrong)
        h.w.output("score", h.w.op("Sigmoid", logit), ["P"])
        h.w.output("logit", logit, ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """transformers' GenericForTokenClassification and a softmax, on torch tensors; the dtype is the caller's."""
        logits = hidden["score"] @ weights[f"{self.layer}.weight"].T
        logits = logits + weights[f"{self.layer}.bias"] if self.bias else logits
        return {"score": logits.softmax(-1)[:, 1], "logit": logits[:, 1] - logits[:, 0]}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """Several labels of a class that config.json calls a token classifier."""
    layer = _layer(facts)
    if layer is None or not facts.architecture.endswith(SUFFIX) or facts.tensors[f"{layer}.weight"].shape[0] == 1:
        return ()
    names = [f"{layer}.weight", f"{layer}.bias"]
    return (*(name for name in names if name in facts.tensors), f"{facts.architecture} in config.json")


def read(facts: HeadFacts) -> StepClassification:
    """The probability of a right step where its separator ends, and its log-odds.

    Raises UnsupportedModel for other labels than wrong and right.
    """
    layer = _layer(facts) or LAYERS[0]
    if (rows := facts.tensor(f"{layer}.weight").shape[0]) != LABELS:
        raise UnsupportedModel(
            f"a token classifier of {rows} labels ({layer}.weight): a process reward model has two, wrong and right, "
            "and which of these would be a reward is nowhere written"
        )
    unit = facts.recipe.unit if facts.recipe else "step"
    return StepClassification(
        positions={"score": facts.score_rule("last")},
        outputs=(Output(name="score", per=unit), Output(name="logit", per=unit)),
        layer=layer,
        hidden_size=facts.hidden_size,
        bias=f"{layer}.bias" in facts.tensors,
        ignored=(facts.lm_head,),
    )


def _layer(facts: HeadFacts) -> str | None:
    return next((layer for layer in LAYERS if f"{layer}.weight" in facts.tensors), None)


HEAD = ScoringHead(
    name="token_classification",
    default_recipe="trl-prm",
    claims=claims,
    read=read,
)
