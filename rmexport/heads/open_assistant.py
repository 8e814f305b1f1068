"""Open-Assistant's GPT-NeoX reward models: one linear layer with a bias on the last token.

Source: LAION-AI/Open-Assistant, model/model_training/models/reward_model.py (`GPTNeoXRewardModel`), pooling "last":
score = out_proj(h[last attended]).
"""

from rmexport.errors import UnsupportedModel
from rmexport.heads import HeadFacts, ScoringHead
from rmexport.heads._linear import LinearHead

LAYER = "out_proj"


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """`out_proj` outside the backbone."""
    names = (f"{LAYER}.weight", f"{LAYER}.bias")
    return names if all(name in facts.tensors for name in names) else ()


def read(facts: HeadFacts) -> LinearHead:
    """One value at the last token; raises UnsupportedModel for a model that averages over all tokens."""
    facts.tensor(f"{LAYER}.weight")
    if (pooling := facts.config.get("pooling") or "last") != "last":
        raise UnsupportedModel(
            f"config.json has pooling {pooling!r}, supported is 'last': a mean needs the last layer's states of every "
            "token, and graphs compute that layer for the tokens that are read alone; with padding the published mean "
            "also fails (its mask does not broadcast), so there is nothing to agree with"
        )
    return LinearHead(
        positions={"score": facts.score_rule("last")},
        value=facts.linear_value(LAYER),
        ignored=(facts.lm_head,),
    )


HEAD = ScoringHead(
    name="open_assistant",
    claims=claims,
    read=read,
)
