"""Open-Assistant's GPT-NeoX reward models: one linear layer with a bias on the last token.

Source: LAION-AI/Open-Assistant, model/model_training/models/reward_model.py (`GPTNeoXRewardModel`), pooling "last":
score = out_proj(h[last attended]).
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.errors import UnsupportedModel
from rmexport.graph.dialect import Dialect
from rmexport.graph.feed_forward import FeedForward
from rmexport.heads import HeadFacts, HeadSpec
from rmruntime.bundle.manifest import Output

NAME = "open_assistant"
LAYER = "out_proj"


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """`out_proj` outside the backbone."""
    names = (f"{LAYER}.weight", f"{LAYER}.bias")
    return names if all(name in facts.tensors for name in names) else ()


def read_spec(facts: HeadFacts) -> HeadSpec:
    """One value at the last token; raises UnsupportedModel for a model that averages over all tokens."""
    facts.tensor(f"{LAYER}.weight")
    if (pooling := facts.config.get("pooling") or "last") != "last":
        raise UnsupportedModel(
            f"config.json has pooling {pooling!r}, supported is 'last': a mean needs the last layer's states of every "
            "token, and graphs compute that layer for the tokens that are read alone; with padding the published mean "
            "also fails (its mask does not broadcast), so there is nothing to agree with"
        )
    return HeadSpec(
        positions={"score": facts.score_rule("last")},
        outputs=(Output(name="score", per="sequence"),),
        score="score",
        settings=facts.linear_value(LAYER),
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
