"""Two linear layers with a ReLU between, `score.0` and `score.2`, ending in one reward.

Sources: INF-ORM-Llama3.1-70B (INFORMForSequenceClassification, rewardbench/models/inform.py in allenai/reward-bench:
reads before the first pad) and Qwen2.5-Math-RM-72B, WorldPM (Qwen2ForRewardModel: reads the last token).
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.graph.dialect import Dialect
from rmexport.graph.feed_forward import FeedForward, read_feed_forward
from rmexport.heads import HeadFacts, HeadSpec
from rmexport.prompt.score_position import EndRule
from rmruntime.bundle.manifest import Output

NAME = "feed_forward_score"
LAYERS = ("score.0", "score.2")
BEFORE_FIRST_PAD = "INFORMForSequenceClassification"  # the class that reads there


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """Both layers, of which the second has one row (two: a process reward model)."""
    last = facts.tensors.get(f"{LAYERS[1]}.weight")
    if f"{LAYERS[0]}.weight" not in facts.tensors or last is None or last.shape[:1] != (1,):
        return ()
    return tuple(name for name in facts.tensors if name.startswith("score."))


def read_spec(facts: HeadFacts) -> HeadSpec:
    """The layers, and the token that the published class reads; a language model's own head is left out."""
    published: EndRule = "before_first_pad" if facts.architecture == BEFORE_FIRST_PAD else "last"
    return HeadSpec(
        positions={"score": facts.score_rule(published)},
        outputs=(Output(name="score", per="sequence"),),
        score="score",
        settings=read_feed_forward(facts.tensors, LAYERS, facts.hidden_size),
        ignored=(facts.lm_head,),
    )


def build(d: Dialect, spec: HeadSpec, hidden: ir.Value) -> None:
    """score [P], raw."""
    s: FeedForward = spec.settings
    d.w.output("score", s.build_value(d, hidden), ["P"])


def reference(spec: HeadSpec, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """nn.Sequential(Linear, ReLU, Linear), on torch tensors; the dtype is the caller's."""
    s: FeedForward = spec.settings
    return {"score": s.reference(hidden["score"], weights)[:, 0]}
