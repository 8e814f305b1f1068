"""`*ForSequenceClassification`: one linear layer on the last token that is not padding (transformers >= 4.49)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import LABELS, Range, optional_integer, section
from rmexport.checkpoint.label_names import label_names
from rmexport.errors import OptionError
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmruntime.bundle.manifest import Output

WEIGHT, BIAS = "score.weight", "score.bias"


@dataclass(frozen=True, kw_only=True)
class SequenceClassification(Head):
    """A classifier with `labels` rows; `score_row` is the index of the one that is the score, None where not chosen.

    `bias`: the checkpoint has a bias, which no class of transformers saves, and it is used.
    """

    labels: int
    hidden_size: int
    score_row: int | None
    bias: bool

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P] and, with several labels, rewards [P, labels]: raw logits, no activation."""
        read = h.read(hidden, "score")
        logits = h.linear(read, "score", (self.labels, self.hidden_size), bias=self.bias)
        if self.score_row is not None:
            h.w.output("score", h.w.op("Gather", logits, h.w.constant("score_row", self.score_row), axis=1), ["P"])
        if self.labels > 1:
            h.w.output("rewards", logits, ["P", self.labels])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """transformers' GenericForSequenceClassification, `logits = score(hidden)`, and the bias that it leaves out."""
        logits = hidden["score"] @ weights[WEIGHT].T
        logits = logits + weights[BIAS] if self.bias else logits
        outputs = {"rewards": logits} if self.labels > 1 else {}
        return outputs | ({} if self.score_row is None else {"score": logits[:, self.score_row]})


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """A `score.weight`."""
    return (WEIGHT,) if WEIGHT in facts.tensors else ()


def read(facts: HeadFacts) -> SequenceClassification:
    """Labels from `score.weight`'s rows, names from id2label, the pad id that HF's pooling skips."""
    rows = facts.tensor(WEIGHT).shape[0]
    names = label_names(facts.config, rows, stem="label")
    score_row = _score_row(facts, names)
    bias = BIAS in facts.tensors and not (facts.recipe and facts.recipe.drop_bias)
    outputs: tuple[Output, ...] = (Output(name="score", per="sequence"),) if score_row is not None else ()
    if rows > 1:
        outputs += (Output(name="rewards", per="sequence", labels=names),)
    return SequenceClassification(
        positions={"score": facts.score_rule("last_not_pad")},
        outputs=outputs,
        score="score" if score_row is not None else None,
        labels=rows,
        hidden_size=facts.hidden_size,
        score_row=score_row,
        bias=bias,
        ignored=(facts.lm_head, BIAS),  # some trainers leave the lm_head in the file
        notes=_notes(facts, rows, score_row),
    )


def _score_row(facts: HeadFacts, names: tuple[str, ...]) -> int | None:
    wanted = facts.options.score_label or (facts.recipe.score_label if facts.recipe else None)
    if wanted is None:
        return 0 if len(names) == 1 else None
    if wanted not in names:
        raise OptionError(f"score label {wanted!r} is unknown, expected one of this head's labels: {', '.join(names)}")
    return names.index(wanted)


def _notes(facts: HeadFacts, rows: int, score_row: int | None) -> tuple[str, ...]:
    notes = []
    stated = optional_integer(facts.config, "num_labels", Range(0, LABELS.most))
    stated = stated or len(section(facts.config, "id2label")) or rows
    if stated != rows:
        notes.append(f"config.json implies {stated} labels, score.weight has {rows} rows: the weights decide")
    if BIAS in facts.tensors:
        left_out = facts.recipe is not None and facts.recipe.drop_bias
        done = "left out, as by transformers" if left_out else "added; transformers leaves it out (recipe: drop_bias)"
        notes.append(f"the checkpoint has a {BIAS}: it is {done}")
    if score_row is None:
        notes.append("several labels and none chosen as the score: results carry rewards only (--score-label)")
    if facts.pad_id is None:
        notes.append("config.json has no pad_token_id: the last token is scored")
    return tuple(notes)


HEAD = ScoringHead(
    name="sequence_classification",
    recipe_fields=("position", "score_label", "drop_bias"),
    claims=claims,
    read=read,
)
