"""UltraRM and Eurus: one linear layer on the last token.

Source: openbmb/UltraRM-13b's model card (`LlamaRewardModel`) and openbmb/Eurus-RM-7b, modeling_eurus_rm.py:
score = regression_head(h[last attended]), no bias. IDEA-CCNL's Ziya has a class of the same name with another head.
"""

from rmexport.heads import HeadFacts, ScoringHead
from rmexport.heads._linear import LinearHead

LAYER = "regression_head"
WEIGHT = f"{LAYER}.weight"


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """The one tensor that no other head has."""
    return (WEIGHT,) if WEIGHT in facts.tensors else ()


def read(facts: HeadFacts) -> LinearHead:
    """One value at the last token."""
    facts.tensor(WEIGHT)
    return LinearHead(
        positions={"score": facts.score_rule("last")},
        value=facts.linear_value(LAYER),
        ignored=(facts.lm_head,),
    )


HEAD = ScoringHead(
    name="regression_head",
    claims=claims,
    read=read,
)
