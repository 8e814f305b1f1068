"""A `*ForTokenClassification` with one label, read at the last token: veRL's reward models and critics.

Source: volcengine/verl, the reward model worker: num_labels 1, the value at argmax(position_ids * attention_mask),
which is the last token.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.graph.dialect import Dialect
from rmexport.graph.feed_forward import FeedForward
from rmexport.heads import HeadFacts, HeadSpec
from rmruntime.bundle.manifest import Output

NAME = "token_value"
SUFFIX = "ForTokenClassification"
LAYERS = ("score", "classifier")  # families of transformers name it one way or the other


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """One label of a class that config.json calls a token classifier."""
    layer = _layer(facts)
    if layer is None or not facts.architecture.endswith(SUFFIX) or facts.tensors[f"{layer}.weight"].shape[0] != 1:
        return ()
    names = [f"{layer}.weight", f"{layer}.bias"]
    return (*(name for name in names if name in facts.tensors), f"{facts.architecture} in config.json")


def read_spec(facts: HeadFacts) -> HeadSpec:
    """The value at the last token, or of each step where a recipe says so."""
    layer = _layer(facts) or LAYERS[0]
    facts.tensor(f"{layer}.weight")
    return HeadSpec(
        positions={"score": facts.score_rule("last")},
        outputs=(Output(name="score", per=facts.recipe.unit if facts.recipe else "sequence"),),
        score="score",
        settings=facts.linear_value(layer),
        ignored=(facts.lm_head,),
    )


def build(d: Dialect, spec: HeadSpec, hidden: ir.Value) -> None:
    """score [P]: the raw value."""
    s: FeedForward = spec.settings
    d.w.output("score", s.build_value(d, hidden), ["P"])


def reference(spec: HeadSpec, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' GenericForTokenClassification, on torch tensors; the dtype is the caller's."""
    s: FeedForward = spec.settings
    return {"score": s.reference(hidden["score"], weights)[:, 0]}


def _layer(facts: HeadFacts) -> str | None:
    return next((layer for layer in LAYERS if f"{layer}.weight" in facts.tensors), None)
