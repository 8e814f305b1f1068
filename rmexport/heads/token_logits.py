"""A causal LM read as a judge: the logits of two tokens just before its one-token reply (RLHFlow's ORM and PRM).

Source: RLHFlow/RLHF-Reward-Modeling, math-rm/{orm,prm}_evaluate.py.
score = softmax([good, bad])[0] = sigmoid(good - bad).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.errors import CheckpointError, UnsupportedModel
from rmexport.graph.vocabulary import Dialect
from rmexport.heads import HeadFacts, HeadSpec, TensorRows
from rmexport.recipe import Recipe
from rmruntime.manifest import Output, PositionRule

NAME = "token_logits"
WEIGHT = "token_logits.weight"
LM_HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The ids of the good and the bad token, for the record."""

    hidden_size: int
    token_ids: tuple[int, int]


def matches(facts: HeadFacts) -> bool:
    """Never by itself: nothing in a causal LM's files says that it is a reward model."""
    return False


def read_spec(facts: HeadFacts) -> HeadSpec:
    """Two rows of the lm_head, chosen by the recipe's tokens; the position is the token before each reply."""
    recipe = facts.recipe
    if recipe is None or len(recipe.tokens) != 2 or recipe.reply is None:
        raise UnsupportedModel("a token-logits head needs a recipe with two tokens and a reply (--recipe NAME)")
    ids = _token_ids(facts, recipe)
    pattern = facts.text.user_turn_end() + recipe.reply
    tokens = facts.text.encode(pattern)
    if tokens[-1] != facts.text.single_token(recipe.reply):
        raise CheckpointError(f"the reply {recipe.reply!r} merges with the assistant header when tokenized: {tokens}")
    return HeadSpec(
        positions={"score": PositionRule(rule="before_marker", tokens=tokens, text=pattern)},
        outputs=(Output(name="score", per=recipe.unit), Output(name="logit", per=recipe.unit)),
        score="score",
        settings=Settings(hidden_size=facts.hidden_size, token_ids=ids),
        derived={WEIGHT: TensorRows(source=_source(facts), rows=ids)},
        ignored=(LM_HEAD,),
    )


def build(d: Dialect, spec: HeadSpec, hidden: ir.Value) -> None:
    """score [P], the good token's probability among the two, and logit [P], its log-odds."""
    s: Settings = spec.settings
    read = d.w.op("Gather", hidden, d.head_index("score"))
    logits = d.head_linear(read, WEIGHT.removesuffix(".weight"), (2, s.hidden_size))
    good, bad = (d.w.op("Gather", logits, d.w.constant(f"row_{i}", i), axis=1) for i in (0, 1))
    logit = d.w.op("Sub", good, bad)
    d.w.output("score", d.w.op("Sigmoid", logit), ["P"])
    d.w.output("logit", logit, ["P"])


def reference(spec: HeadSpec, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
    """The published scripts: logits of the whole vocabulary in the model's dtype, two columns, softmax."""
    logits = hidden["score"] @ weights[WEIGHT].T
    return {"score": logits.softmax(-1)[:, 0], "logit": logits[:, 0] - logits[:, 1]}


def _token_ids(facts: HeadFacts, recipe: Recipe) -> tuple[int, int]:
    good, bad = (facts.text.single_token(token) for token in recipe.tokens)
    for token in recipe.tokens:
        facts.text.check_published(token)
    return good, bad


def _source(facts: HeadFacts) -> str:
    """The lm_head, or the embedding table where the two are tied."""
    if LM_HEAD in facts.tensors:
        return LM_HEAD
    if facts.config.get("tie_word_embeddings"):
        return EMBEDDING
    raise CheckpointError(f"no {LM_HEAD} and tie_word_embeddings is not set: this is not a causal LM's checkpoint")
