"""A causal LM read as a judge: the logits of two tokens where it would answer, or of one whose row holds the reward.

Sources: RLHFlow/RLHF-Reward-Modeling, math-rm/{orm,prm}_evaluate.py ('+' and '-' just before the reply) and pair-pm
('A' and 'B' at the end); huggingface/search-and-learn (math-shepherd, at every step's tag); NVIDIA's Nemotron reward
models (row 0 of the lm_head, at the end). score = softmax([good, bad])[0] = sigmoid(good - bad), or the raw logit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.checkpoint.config_fields import FACTOR, number
from rmexport.checkpoint.derived_tensors import TensorRows
from rmexport.errors import CheckpointError, OptionError, UnsupportedModel
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head, HeadFacts, ScoringHead
from rmruntime.bundle.manifest import Output

WEIGHT = "token_logits.weight"


@dataclass(frozen=True, kw_only=True)
class TokenLogits(Head):
    """The ids of the good and the bad token, or of the only one, and the bound of logits (Gemma 2's softcap)."""

    hidden_size: int
    token_ids: tuple[int, ...]
    softcap: float | None = None

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P]: the only token's raw logit; of two the good one's probability, and logit [P], its log-odds."""
        read = h.read(hidden, "score")
        logits = h.linear(read, WEIGHT.removesuffix(".weight"), (len(self.token_ids), self.hidden_size))
        if self.softcap is not None:
            cap = h.w.constant("logit_softcap", self.softcap, "fp32")
            logits = h.w.op("Mul", h.w.op("Tanh", h.w.op("Div", logits, cap)), cap)
        rows = [h.w.op("Gather", logits, h.w.constant(f"row_{i}", i), axis=1) for i in range(len(self.token_ids))]
        if len(rows) == 1:
            h.w.output("score", rows[0], ["P"])
            return
        logit = h.w.op("Sub", *rows)
        h.w.output("score", h.w.op("Sigmoid", logit), ["P"])
        h.w.output("logit", logit, ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The published scripts: logits of the whole vocabulary in the model's dtype, two columns, softmax."""
        logits = hidden["score"] @ weights[WEIGHT].T
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        if logits.shape[1] == 1:
            return {"score": logits[:, 0]}
        return {"score": logits.softmax(-1)[:, 0], "logit": logits[:, 0] - logits[:, 1]}


def claims(facts: HeadFacts) -> tuple[str, ...]:
    """None: nothing in a causal LM's files says that it is a reward model."""
    return ()


def read(facts: HeadFacts) -> TokenLogits:
    """The rows of the lm_head that the recipe's tokens choose; one row gives its raw logit, two a probability."""
    ids = _token_ids(facts)
    outputs = (Output(name="score", per=facts.unit),)
    return TokenLogits(
        positions={"score": facts.score_rule("last")},
        outputs=outputs + ((Output(name="logit", per=facts.unit),) if len(ids) == 2 else ()),
        hidden_size=facts.hidden_size,
        token_ids=ids,
        softcap=_softcap(facts),
        derived={WEIGHT: TensorRows(source=_source(facts), rows=ids)},
        ignored=(facts.lm_head,),
        notes=(_compared(facts, ids),),
    )


def _compared(facts: HeadFacts, ids: tuple[int, ...]) -> str:
    """A note with the texts of the ids in this tokenizer; in another tokenizer they would be other tokens."""
    named = [f"{facts.text.tokenizer.id_to_token(token)!r} (id {token})" for token in ids]
    return f"the score is the logit of {named[0]}" if len(named) == 1 else f"the score is {named[0]} against {named[1]}"


def _token_ids(facts: HeadFacts) -> tuple[int, ...]:
    """Ids of the recipe's tokens, good before bad; published ones are checked. Raises UnsupportedModel without them."""
    recipe = facts.recipe
    if recipe is not None and len(recipe.token_ids) in (1, 2):
        _check_rows(facts, recipe.name, recipe.token_ids)
        return recipe.token_ids
    if recipe is None or len(recipe.tokens) not in (1, 2):
        raise UnsupportedModel("a token-logits head needs a recipe with one or two tokens (--recipe NAME)")
    for token in recipe.tokens:
        facts.text.check_published(token)
    return tuple(facts.text.single_token(token) for token in recipe.tokens)


def _check_rows(facts: HeadFacts, recipe: str, ids: tuple[int, ...]) -> None:
    """Raises OptionError for ids beyond the vocabulary: the recipe was written for another tokenizer."""
    rows = facts.tensors[_source(facts)].shape[0]
    if max(ids) >= rows:
        raise OptionError(
            f"recipe {recipe!r} reads the token ids {list(ids)}, this vocabulary has {rows}: the recipe is for another "
            "tokenizer; write one of your own with this model's tokens"
        )


def _softcap(facts: HeadFacts) -> float | None:
    """The softcap of the final logits; transformers applies it to a causal LM's logits, not to a classifier's."""
    name = "final_logit_softcapping"
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
    recipe_fields=("position", "tokens", "token_ids"),
    claims=claims,
    read=read,
)
