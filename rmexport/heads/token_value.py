"""A `*ForTokenClassification` with one label, read at the last token: veRL's reward models and critics.

Source: volcengine/verl, the reward model worker: num_labels 1, the value at argmax(position_ids * attention_mask),
which is the last token.
"""

from rmexport.heads import HeadFacts, ScoringHead
from rmexport.heads._linear import LinearHead
from rmruntime.bundle.manifest import Output

SUFFIX = "ForTokenClassification"
LAYERS = ("score", "classifier")  # families of transformers name it one way or the other


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """One label of a class that config.json calls a token classifier."""
    layer = _layer(facts)
    if layer is None or not facts.architecture.endswith(SUFFIX) or facts.tensors[f"{layer}.weight"].shape[0] != 1:
        return ()
    names = [f"{layer}.weight", f"{layer}.bias"]
    return (*(name for name in names if name in facts.tensors), f"{facts.architecture} in config.json")


def read(facts: HeadFacts) -> LinearHead:
    """The value at the last token, or of each step where a recipe says so."""
    layer = _layer(facts) or LAYERS[0]
    facts.tensor(f"{layer}.weight")
    return LinearHead(
        positions={"score": facts.score_rule("last")},
        outputs=(Output(name="score", per=facts.unit),),
        value=facts.linear_value(layer),
        ignored=(facts.lm_head,),
    )


def _layer(facts: HeadFacts) -> str | None:
    return next((layer for layer in LAYERS if f"{layer}.weight" in facts.tensors), None)


HEAD = ScoringHead(
    name="token_value",
    claims=claims,
    read=read,
)
