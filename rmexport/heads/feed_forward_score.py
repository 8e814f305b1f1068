"""Two linear layers with a ReLU between, `score.0` and `score.2`, ending in one reward.

Sources: INF-ORM-Llama3.1-70B (INFORMForSequenceClassification, rewardbench/models/inform.py in allenai/reward-bench:
reads before the first pad) and Qwen2.5-Math-RM-72B, WorldPM (Qwen2ForRewardModel: reads the last token).
"""

from rmexport.graph.feed_forward import read_feed_forward
from rmexport.heads import HeadFacts, ScoringHead
from rmexport.heads._linear import LinearHead
from rmexport.prompt.score_position import EndRule

LAYERS = ("score.0", "score.2")
BEFORE_FIRST_PAD = "INFORMForSequenceClassification"  # the class that scores the token before the first pad


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """Both layers, of which the second has one row (two: a process reward model)."""
    last = facts.tensors.get(f"{LAYERS[1]}.weight")
    if f"{LAYERS[0]}.weight" not in facts.tensors or last is None or last.shape[:1] != (1,):
        return ()
    return tuple(name for name in facts.tensors if name.startswith("score."))


def read(facts: HeadFacts) -> LinearHead:
    """The layers, and the token that the published class reads; a language model's own head is left out."""
    published: EndRule = "before_first_pad" if facts.architecture == BEFORE_FIRST_PAD else "last"
    return LinearHead(
        positions={"score": facts.score_rule(published)},
        value=read_feed_forward(facts.tensors, LAYERS, facts.hidden_size),
        ignored=(facts.lm_head,),
    )


HEAD = ScoringHead(
    name="feed_forward_score",
    claims=claims,
    read=read,
)
