"""UltraRM and Eurus: one linear layer on the last token.

Source: openbmb/UltraRM-13b's model card (`LlamaRewardModel`) and openbmb/Eurus-RM-7b, modeling_eurus_rm.py:
score = regression_head(h[last attended]), no bias. IDEA-CCNL's Ziya has a class of the same name with another head.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.graph.dialect import Dialect
from rmexport.graph.feed_forward import FeedForward
from rmexport.heads import HeadFacts, HeadSpec
from rmruntime.bundle.manifest import Output

NAME = "regression_head"
WEIGHT = "regression_head.weight"


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """The one tensor that no other head has."""
    return (WEIGHT,) if WEIGHT in facts.tensors else ()


def read_spec(facts: HeadFacts) -> HeadSpec:
    """One value at the last token."""
    facts.tensor(WEIGHT)
    return HeadSpec(
        positions={"score": facts.score_rule("last")},
        outputs=(Output(name="score", per="sequence"),),
        score="score",
        settings=facts.linear_value(NAME),
        ignored=(facts.lm_head,),
    )


def build(d: Dialect, spec: HeadSpec, hidden: ir.Value) -> None:
    """score [P]."""
    s: FeedForward = spec.settings
    d.w.output("score", s.build_value(d, hidden), ["P"])


def reference(spec: HeadSpec, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The published forward, on torch tensors; the dtype is the caller's."""
    s: FeedForward = spec.settings
    return {"score": s.reference(hidden["score"], weights)[:, 0]}
