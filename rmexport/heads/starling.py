"""Starling: one linear layer on the token before the first id 0, the backbone under `transformer.`.

Source: reward-bench, rewardbench/models/starling.py. Starling-RM-34B names its class LlamaForSequenceClassification, as
transformers does, and has PAD_ID = 0. Starling-RM-7B-alpha is a bare state dict that may hold the backbone twice, the
second time under `model.model.`; its example takes PAD_ID from a tokenizer call that answers with the BOS first, so
that it reads padding in a batch, and the last token, as here, of a conversation alone.
"""

from rmexport.heads import HeadFacts, ScoringHead
from rmexport.heads._linear import LinearHead
from rmruntime.bundle.manifest import PositionRule

LAYER, BACKBONE = "v_head", "transformer."
PAD_ID = 0  # <unk> of Llama 2 and Yi; the class has it as a constant, whatever config.json says


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """`v_head` beside a backbone that is called `transformer`."""
    if f"{LAYER}.weight" not in facts.tensors or f"{BACKBONE}embed_tokens.weight" not in facts.tensors:
        return ()
    return (f"{LAYER}.weight",)


def read(facts: HeadFacts) -> LinearHead:
    """One value; the state dict's second copy of the backbone and the language model's head are left out."""
    facts.tensor(f"{LAYER}.weight")
    return LinearHead(
        positions={"score": _position(facts)},
        value=facts.linear_value(LAYER),
        prefixes={"model.": BACKBONE},
        ignored=("model.*", facts.lm_head),
    )


def _position(facts: HeadFacts) -> PositionRule:
    if facts.recipe is not None and facts.recipe.position is not None:
        return facts.score_rule(facts.recipe.position)
    return PositionRule(rule="before_first_pad", pad_id=PAD_ID)


HEAD = ScoringHead(
    name="starling",
    claims=claims,
    read=read,
)
