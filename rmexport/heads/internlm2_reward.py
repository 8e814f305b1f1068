"""InternLM2's reward models: one linear layer, read at a reward token that is put behind the conversation.

Source: internlm/internlm2-*-reward, modeling_internlm2.py (`get_score`); reward-bench, rewardbench/models/internlm.py:
`reward_token_id` is appended where it is not last already, score = v_head(h[last]), no bias.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import VOCABULARY, Range, integer
from rmexport.graph.dialect import Dialect
from rmexport.graph.feed_forward import FeedForward
from rmexport.heads import HeadFacts, HeadSpec
from rmruntime.bundle.manifest import Output

NAME = "internlm2_reward"
LAYER, EMBEDDING = "v_head", "tok_embeddings.weight"


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """`v_head` on a backbone that names its embedding as InternLM2 does, or that has a reward token."""
    found = facts.embedding.endswith(EMBEDDING) or "reward_token_id" in facts.config
    return (f"{LAYER}.weight",) if found and f"{LAYER}.weight" in facts.tensors else ()


def read_spec(facts: HeadFacts) -> HeadSpec:
    """One value at the appended token; raises CheckpointError where config.json has no reward_token_id."""
    facts.tensor(f"{LAYER}.weight")
    token_ids = Range(0, integer(facts.config, "vocab_size", VOCABULARY) - 1)
    return HeadSpec(
        positions={"score": facts.score_rule("last")},
        outputs=(Output(name="score", per="sequence"),),
        score="score",
        settings=facts.linear_value(LAYER),
        append=(integer(facts.config, "reward_token_id", token_ids),),
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
