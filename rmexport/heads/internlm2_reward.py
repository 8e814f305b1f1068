"""InternLM2's reward models: one linear layer on a reward token that is appended to the conversation.

Source: internlm/internlm2-*-reward, modeling_internlm2.py (`get_score`); reward-bench, rewardbench/models/internlm.py:
`reward_token_id` is appended where it is not last already, score = v_head(h[last]), no bias.
"""

from rmexport.checkpoint.config_fields import VOCABULARY, Range, integer
from rmexport.heads import HeadFacts, ScoringHead
from rmexport.heads._linear import LinearHead

LAYER, EMBEDDING = "v_head", "tok_embeddings.weight"


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """`v_head` on a backbone that names its embedding as InternLM2 does, or that has a reward token."""
    found = facts.embedding.endswith(EMBEDDING) or "reward_token_id" in facts.config
    return (f"{LAYER}.weight",) if found and f"{LAYER}.weight" in facts.tensors else ()


def read(facts: HeadFacts) -> LinearHead:
    """One value at the appended token; raises CheckpointError where config.json has no reward_token_id."""
    facts.tensor(f"{LAYER}.weight")
    token_ids = Range(0, integer(facts.config, "vocab_size", VOCABULARY) - 1)
    return LinearHead(
        positions={"score": facts.score_rule("last")},
        value=facts.linear_value(LAYER),
        append=(integer(facts.config, "reward_token_id", token_ids),),
        ignored=(facts.lm_head,),
    )


HEAD = ScoringHead(
    name="internlm2_reward",
    claims=claims,
    read=read,
)
