"""Any linear layer of one row on the last token, whatever its name, such as `reward_head` or `rm_head`

Source: microsoft/DeepSpeedExamples, DeepSpeed-Chat's `RewardModel` (`v_head` beside `rwtransformer`, no bias, the value
at the last token before padding); trainers of one's own differ from it in the name, the bias and nothing else.
"""

from rmexport.errors import CheckpointError
from rmexport.graph.feed_forward import linear_value
from rmexport.heads import HeadFacts, ScoringHead
from rmexport.heads._linear import LinearHead
from rmruntime.bundle.manifest import Output

UNDESCRIBED = "LlamaRewardModel"  # the class of Ziya, whose scores are not documented, and of UltraRM


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """The only layer of one row outside the backbone, or the one that a recipe names."""
    named = facts.recipe.head_tensor if facts.recipe else None
    found = _layers(facts)
    if named is None and (len(found) != 1 or facts.architecture == UNDESCRIBED):
        return ()
    return (f"{_layer(facts)}.weight" if named is None else named,)


def read(facts: HeadFacts) -> LinearHead:
    """One value; other layers of one row and the language model's head are left out.

    Raises CheckpointError where a recipe names another kind of layer, or names none and there are several.
    """
    layer = _layer(facts)
    bias = f"{layer}.bias" in facts.tensors
    kept = bias and not (facts.recipe and facts.recipe.drop_bias)
    others = [other for other in _layers(facts) if other != layer]
    ignored = [f"{other}.{kind}" for other in others for kind in ("weight", "bias")]
    ignored += [f"{layer}.bias"] if bias and not kept else []
    ignored += [name for name in facts.tensors if f".{name}".endswith(f".{facts.lm_head}")]
    sigmoid = facts.recipe is not None and facts.recipe.activation == "sigmoid"
    return LinearHead(
        positions={"score": facts.score_rule("last")},
        outputs=tuple(Output(name=name, per=facts.unit) for name in (("score", "logit") if sigmoid else ("score",))),
        value=linear_value(layer, facts.hidden_size, bias=kept),
        sigmoid=sigmoid,
        ignored=tuple(ignored),
        notes=_notes(layer, others, bias=bias, kept=kept),
    )


def _layers(facts: HeadFacts) -> list[str]:
    return list(facts.one_row_layers)


def _layer(facts: HeadFacts) -> str:
    """The layer's name: that of its weight without `.weight`."""
    found = _layers(facts)
    named = facts.recipe.head_tensor if facts.recipe else None
    if named is not None:
        layer = named.removesuffix(".weight")
        if layer in found:
            return layer
        held = facts.tensors.get(f"{layer}.weight") or facts.tensors.get(named)
        there = "is not in the checkpoint" if held is None else f"is {list(held.shape)}"
    elif len(found) == 1:
        return found[0]
    else:
        named, there = "the head", "is not named (head_tensor in a recipe)"
    listed = ", ".join(f"{layer}.weight" for layer in found) or "none"
    raise CheckpointError(
        f"{named} {there}, expected a weight [1, {facts.hidden_size}]; the checkpoint has of these: {listed}"
    )


def _notes(layer: str, others: list[str], *, bias: bool, kept: bool) -> tuple[str, ...]:
    left_out = " without its bias" if bias and not kept else ""
    notes = [f"the score is the value of {layer} at the last token{left_out}"]
    if others:
        notes.append(f"{', '.join(others)}, of one row too, left out")
    return tuple(notes)


HEAD = ScoringHead(
    name="one_row",
    recipe_fields=("position", "activation", "head_tensor", "drop_bias"),
    fallback=True,
    claims=claims,
    read=read,
)
