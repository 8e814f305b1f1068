"""A causal LM read as a judge: the logits of the tokens that it would answer, or of one whose row holds the reward.

Sources: RLHFlow/RLHF-Reward-Modeling, math-rm/{orm,prm}_evaluate.py ('+' and '-' just before the reply) and pair-pm
('A' and 'B' at the end); huggingface/search-and-learn (math-shepherd, at every step's tag); NVIDIA's Nemotron reward
models (row 0 of the lm_head, at the end). score = softmax([good, bad])[0] = sigmoid(good - bad), or the raw logit.
Guards and graders have more tokens: softmax over all of them, one of which is the score (ShieldGemma's model card), or
the mean of their values, sum of p * value (ContextualAI/LMUnit, lmunit/lmunit.py, `score_from_top_logprobs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from rmexport.checkpoint.config_fields import FACTOR, number
from rmexport.checkpoint.derived_tensors import TensorRows
from rmexport.errors import CheckpointError, OptionError, UnsupportedModel
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmexport.prompt.recipe import PLAIN, Recipe
from rmruntime.bundle.manifest import Output

WEIGHT = "token_logits.weight"


@dataclass(frozen=True, kw_only=True)
class TokenLogits(Head):
    """The ids of the good and the bad token, of the only one, or of several with names.

    `softcap` is the bound of logits (Gemma 2), `scaling` their divisor (Granite). `sigmoid` makes a probability of a
    single token's logit. With `classes` the outputs have every token's probability among them, `score_row` is the one
    that is the score; with `values`, a number for each token, the score is their mean under these probabilities.
    """

    hidden_size: int
    token_ids: tuple[int, ...]
    softcap: float | None = None
    scaling: float | None = None
    sigmoid: bool = False
    classes: tuple[str, ...] = ()
    score_row: int | None = None
    values: tuple[float, ...] = ()

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P]: the only token's raw logit, or its sigmoid; of two the good one's probability; of several with
        names the chosen one's, or the mean of the tokens' values; then rewards [P, tokens], every probability. Of two
        tokens, and with a sigmoid, also logit [P], its log-odds.
        """
        read = h.read(hidden, "score")
        logits = h.linear(read, WEIGHT.removesuffix(".weight"), (len(self.token_ids), self.hidden_size))
        if self.scaling is not None:
            logits = h.w.op("Div", logits, h.w.constant("logits_scaling", self.scaling, "fp32"))
        if self.softcap is not None:
            cap = h.w.constant("logit_softcap", self.softcap, "fp32")
            logits = h.w.op("Mul", h.w.op("Tanh", h.w.op("Div", logits, cap)), cap)
        if self.classes:
            self._build_classes(h, logits)
            return
        rows = [h.w.op("Gather", logits, h.w.constant(f"row_{i}", i), axis=1) for i in range(len(self.token_ids))]
        if len(rows) == 1 and not self.sigmoid:
            h.w.output("score", rows[0], ["P"])
            return
        logit = h.w.op("Sub", *rows) if len(rows) == 2 else rows[0]
        h.w.output("score", h.w.op("Sigmoid", logit), ["P"])
        h.w.output("logit", logit, ["P"])

    def _build_classes(self, h: HeadWriter, logits: ir.Value) -> None:
        count = len(self.classes)
        chances = h.w.op("Softmax", logits, axis=-1)
        if self.values:
            worth = h.w.constant("worth", np.array(self.values, np.float32), "fp32")
            h.w.output("score", h.row_sum(h.w.op("Mul", chances, worth), count), ["P"])
        elif self.score_row is not None:
            h.w.output("score", h.w.op("Gather", chances, h.w.constant("score_row", self.score_row), axis=1), ["P"])
        if self._has_odds:
            rows = [h.w.op("Gather", logits, h.w.constant(f"row_{i}", i), axis=1) for i in self._odds]
            h.w.output("logit", h.w.op("Sub", *rows), ["P"])
        h.w.output("rewards", chances, ["P", count])

    @property
    def _has_odds(self) -> bool:
        return len(self.classes) == 2 and self.score_row is not None

    @property
    def _odds(self) -> tuple[int, int]:
        """The scored row of two, and the other."""
        return (0, 1) if self.score_row == 0 else (1, 0)

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The published scripts: logits of the whole vocabulary in the model's dtype, the tokens' columns, softmax."""
        logits = hidden["score"] @ weights[WEIGHT].T
        if self.scaling is not None:
            logits = logits / self.scaling
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        if self.classes:
            return self._class_reference(logits)
        if logits.shape[1] == 1:
            return {"score": logits[:, 0].sigmoid(), "logit": logits[:, 0]} if self.sigmoid else {"score": logits[:, 0]}
        return {"score": logits.softmax(-1)[:, 0], "logit": logits[:, 0] - logits[:, 1]}

    def _class_reference(self, logits: Any) -> dict[str, Any]:
        chances = logits.softmax(-1)
        found = {"rewards": chances}
        if self.values:
            found["score"] = (chances * chances.new_tensor(self.values)).sum(-1)
        elif self.score_row is not None:
            found["score"] = chances[:, self.score_row]
        if self._has_odds:
            scored, other = self._odds
            found["logit"] = logits[:, scored] - logits[:, other]
        return found


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """None: nothing in a causal LM's files says that it is a reward model."""
    return ()


def read(facts: HeadFacts) -> TokenLogits:
    """The rows of the lm_head that the recipe's tokens choose, and what the recipe makes of their logits."""
    recipe = facts.recipe or PLAIN
    ids = _token_ids(facts)
    classes = _classes(facts, ids)
    score_row = _score_row(facts, classes)
    if recipe.activation is not None and len(ids) > 1:
        raise OptionError(f"recipe {recipe.name!r} has an activation for {len(ids)} tokens, expected one token")
    sigmoid = recipe.activation == "sigmoid"
    scored = not classes or bool(recipe.token_values) or score_row is not None
    odds = sigmoid or (len(ids) == 2 and (not classes or score_row is not None))
    outputs = tuple(Output(name=name, per=facts.unit) for name, there in (("score", scored), ("logit", odds)) if there)
    return TokenLogits(
        positions={"score": facts.score_rule("last")},
        outputs=outputs + ((Output(name="rewards", per=facts.unit, labels=classes),) if classes else ()),
        score="score" if scored else None,
        hidden_size=facts.hidden_size,
        token_ids=ids,
        softcap=_factor(facts, "final_logit_softcapping"),
        scaling=_factor(facts, "logits_scaling"),
        sigmoid=sigmoid,
        classes=classes,
        score_row=score_row,
        values=recipe.token_values,
        derived={WEIGHT: TensorRows(source=_source(facts), rows=ids)},
        ignored=(facts.lm_head,),
        notes=(_compared(facts, ids, classes, score_row),),
    )


def _classes(facts: HeadFacts, ids: tuple[int, ...]) -> tuple[str, ...]:
    """The names of the tokens where every one has a probability of its own; () for one token, and for good and bad.

    Raises OptionError for names that are not one per token, and for steps, whose results have no such field.
    """
    recipe = facts.recipe or PLAIN
    if not recipe.objectives and not recipe.token_values:
        return ()
    names = recipe.objectives or tuple(text.strip() for text in recipe.tokens) or tuple(map(str, ids))
    if len(names) != len(ids) or len(set(names)) < len(names) or not all(names):
        raise OptionError(
            f"recipe {recipe.name!r} names its {len(ids)} tokens {', '.join(map(repr, names))}, expected a name of its "
            "own for each (objectives)"
        )
    if facts.unit != "sequence":
        raise OptionError(
            f"recipe {recipe.name!r} has names for its tokens (objectives, token_values) and unit {facts.unit!r}: "
            "steps have one number each; leave the names out"
        )
    return names


def _score_row(facts: HeadFacts, classes: tuple[str, ...]) -> int | None:
    """The row whose probability is the score; None where none was chosen, or where the score is a mean of values."""
    recipe = facts.recipe or PLAIN
    wanted = facts.options.score_label or recipe.score_label
    if wanted is None:
        return None
    if not classes or recipe.token_values:
        raise OptionError(f"this recipe's tokens make one score: leave out the score label {wanted}")
    if wanted not in classes:
        raise OptionError(f"score label {wanted!r} is unknown, expected one of the tokens' names: {', '.join(classes)}")
    return classes.index(wanted)


def _compared(facts: HeadFacts, ids: tuple[int, ...], classes: tuple[str, ...], score_row: int | None) -> str:
    """A note with the texts of the ids in this tokenizer; in another tokenizer they would be other tokens."""
    recipe = facts.recipe or PLAIN
    named = [f"{facts.text.tokenizer.id_to_token(token)!r} (id {token})" for token in ids]
    if recipe.token_values:
        worth = ", ".join(f"{value:g} for {name}" for value, name in zip(recipe.token_values, named, strict=True))
        return f"the score is the mean of {worth}, weighted by their probabilities"
    if classes:
        listed = ", ".join(f"{name} {token}" for name, token in zip(classes, named, strict=True))
        scored = "none is the score (--score-label)" if score_row is None else f"the score is {classes[score_row]}'s"
        return f"rewards are the probabilities of {listed}; {scored}"
    if len(named) == 1:
        return f"the score is the {'sigmoid of the ' if recipe.activation else ''}logit of {named[0]}"
    return f"the score is {named[0]} against {named[1]}"


def _token_ids(facts: HeadFacts) -> tuple[int, ...]:
    """Ids of the recipe's tokens, good before bad; published ones are checked. Raises UnsupportedModel without them."""
    recipe = facts.recipe or PLAIN
    many = bool(recipe.objectives or recipe.token_values)
    given = len(recipe.token_ids or recipe.tokens)
    if given == 0 or (given > 2 and not many):
        raise UnsupportedModel(
            "a token-logits head needs a recipe with one or two tokens, or with more that have names (objectives) or "
            "values (token_values) (--recipe NAME)"
        )
    if recipe.token_ids:
        _check_rows(facts, recipe.name, recipe.token_ids)
        return recipe.token_ids
    for token in recipe.tokens:
        facts.text.check_published(token)
    if not many:
        return tuple(facts.text.single_token(token) for token in recipe.tokens)
    return tuple(_first_token(facts, recipe, text) for text in recipe.tokens)


def _first_token(facts: HeadFacts, recipe: Recipe, text: str) -> int:
    """The id that a reply beginning with `text` has first, after the text that the reply is made to begin with.

    Raises CheckpointError where it is another one token by token, or another token's first too.
    """
    first = {other: facts.text.encode(other)[:1] for other in recipe.tokens}
    alike = [other for other in recipe.tokens if other != text and first[other] == first[text]]
    if not first[text] or alike:
        raise CheckpointError(
            f"the replies {', '.join(map(repr, recipe.tokens))} do not differ in their first token in this tokenizer: "
            "they cannot be told apart where one is read"
        )
    forced = facts.text.encode(recipe.reply or "")
    whole = facts.text.encode((recipe.reply or "") + text)
    if whole[: len(forced) + 1] != (*forced, *first[text]):
        raise CheckpointError(
            f"after {recipe.reply!r} this tokenizer makes {list(whole)} of {text!r}, alone {list(first[text])} first: "
            "expected the same; move the part that merges into the tokens, or out of them"
        )
    return first[text][0]


def _check_rows(facts: HeadFacts, recipe: str, ids: tuple[int, ...]) -> None:
    """Raises OptionError for ids beyond the vocabulary: the recipe was written for another tokenizer."""
    rows = facts.tensors[_source(facts)].shape[0]
    if max(ids) >= rows:
        raise OptionError(
            f"recipe {recipe!r} reads the token ids {list(ids)}, this vocabulary has {rows}: the recipe is for another "
            "tokenizer; write one of your own with this model's tokens"
        )


def _factor(facts: HeadFacts, name: str) -> float | None:
    """A number by which transformers changes a causal LM's logits, and not a classifier's; None without it."""
    return number(facts.config, name, FACTOR, default=0.0) if facts.config.get(name) else None


def _source(facts: HeadFacts) -> str:
    """The lm_head, or the embedding table where the two are tied."""
    if facts.lm_head in facts.tensors:
        return facts.lm_head
    if facts.tied:
        return facts.embedding
    raise CheckpointError(
        f"found no {facts.lm_head}, and tie_word_embeddings is not set: this is not a causal LM's checkpoint; choose "
        "another recipe"
    )


HEAD = ScoringHead(
    name="token_logits",
    recipe_fields=("position", "tokens", "token_ids", "token_values", "activation", "objectives", "score_label"),
    claims=claims,
    read=read,
)
