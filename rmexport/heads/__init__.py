"""Heads, which turn hidden states into rewards, one file each, found by tensor names; no other code names a file here.

A head module has HEAD, a `ScoringHead`, or a `RefusedHead` where it is known but has no score of one conversation.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, NoReturn

import onnx_ir as ir

from rmexport.checkpoint.derived_tensors import Derived, found_prefix, rename
from rmexport.errors import OptionError, UnsupportedModel
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads._facts import Candidate, HeadFacts
from rmexport.options import ExportOptions
from rmexport.prompt.recipe import PLAIN, Recipe, recipes
from rmruntime.bundle.manifest import Output, PositionRule
from rmruntime.errors import listing
from rmruntime.modules import by_name, discover_values

__all__ = [
    "HEAD_FIELDS",
    "Candidate",
    "ChosenHead",
    "Head",
    "HeadFacts",
    "HeadKind",
    "RefusedHead",
    "ScoringHead",
    "check_recipe",
    "head_of",
    "heads",
    "read_head",
    "refuse_known",
]


@dataclass(frozen=True, kw_only=True)
class Head(ABC):
    """A checkpoint's head: the positions that it scores, its outputs, and in each subclass how they are computed.

    `score` names the output that is the score, None when no single number is defined. `derived` are weights that are
    made from other tensors of the checkpoint. `ignored` are names of checkpoint tensors (prefixes, where they end in
    `*`) that this head leaves out on purpose. `prefixes` map the family's prefixes of weights to those of the head's
    class: {"model.": "transformer."}. `append` are token ids that every sequence must end in: the reward token.
    """

    positions: Mapping[str, PositionRule]
    outputs: tuple[Output, ...] = (Output(name="score", per="sequence"),)
    score: str | None = "score"
    derived: Mapping[str, Derived] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    prefixes: Mapping[str, str] = field(default_factory=dict)
    append: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @abstractmethod
    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """Add the graph's outputs, all fp32, [P] or [P, labels], to `hidden` [N, hidden_size]."""

    @abstractmethod
    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The published formula on torch tensors: every output by name, from `hidden[role]` [P, hidden_size]."""


@dataclass(frozen=True, kw_only=True)
class HeadKind:
    """What a head module states in its HEAD.

    `claims(facts)` returns the tensors (and the facts of config.json) by which the head recognises itself.
    `default_recipe` names the recipe that says how its conversations are written when neither the user nor the
    repository chose one. `recipe_fields` are the fields of a recipe that it reads, of those that are a head's business
    (HEAD_FIELDS). One with `fallback` is asked only where no other head recognises the checkpoint, or a recipe sets
    `head_tensor` and it reads that.
    """

    name: str
    claims: Callable[[HeadFacts], tuple[str, ...]]
    default_recipe: str | None = None
    recipe_fields: tuple[str, ...] = ("position",)
    fallback: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoringHead(HeadKind):
    """A head that returns scores: `read(facts)` returns it with the checkpoint's settings.

    Raises what the head says of what it cannot use.
    """

    read: Callable[[HeadFacts], Head]


@dataclass(frozen=True, kw_only=True)
class RefusedHead(HeadKind):
    """A head that is known and gives no score of one conversation, whatever its backbone.

    `refuse(candidate)` raises UnsupportedModel, which says why.
    """

    claims: Callable[[Candidate], tuple[str, ...]]
    refuse: Callable[[Candidate], NoReturn]


@cache
def heads() -> dict[str, ScoringHead | RefusedHead]:
    """Every head by its name.

    >>> "sequence_classification" in heads()
    True
    """
    found: dict[ModuleType, ScoringHead | RefusedHead] = discover_values(__name__, "HEAD", ScoringHead, RefusedHead)
    return by_name(__name__, ((kind.name, module, kind) for module, kind in found.items()))


HEAD_FIELDS = (
    "position",
    "tokens",
    "token_ids",
    "token_values",
    "activation",
    "normalize",
    "negate",
    "objectives",
    "score_label",
    "head_tensor",
    "drop_bias",
)


def check_recipe(head: HeadKind, recipe: Recipe, options: ExportOptions) -> None:
    """Raises OptionError for a recipe or an option with a setting that the head does not use."""
    asked = [name for name in HEAD_FIELDS if getattr(recipe, name) and name not in head.recipe_fields]
    if asked:
        raise OptionError(
            f"recipe {recipe.name!r} sets {', '.join(asked)}, which the head {head.name} does not use; take it out "
            f"(it uses {', '.join(head.recipe_fields)})"
        )
    if options.score_label is not None and "score_label" not in head.recipe_fields:
        raise OptionError(f"the head {head.name} has one score: leave out --score-label {options.score_label}")


@dataclass(frozen=True, kw_only=True)
class ChosenHead:
    """The head of a checkpoint, why it is this one, and the facts, with the head's default recipe where needed."""

    kind: ScoringHead | RefusedHead
    reason: str
    facts: HeadFacts


def head_of(facts: HeadFacts) -> ChosenHead:
    """The one head that a checkpoint has: the recipe's, else the one that accounts for most of the tensors.

    A head whose claimed tensors are all claimed by another gives way to it. Raises UnsupportedModel when none or
    several are left, naming the candidates and `--recipe`; OptionError for a recipe that names an unknown head.
    """
    name, reason = _chosen(facts)
    kind = heads()[name]
    return ChosenHead(kind=kind, reason=reason, facts=facts.with_default_recipe(kind.default_recipe))


def read_head(chosen: ChosenHead) -> Head:
    """A chosen head with its settings. Raises as `check_recipe` does, and the head's own errors for wrong tensors."""
    kind, facts = chosen.kind, chosen.facts
    check_recipe(kind, facts.recipe or PLAIN, facts.options)
    if isinstance(kind, RefusedHead):
        kind.refuse(facts)
    return kind.read(facts)


def _chosen(facts: HeadFacts) -> tuple[str, str]:
    """The name of the head, and the reason why it is this one."""
    if facts.recipe is not None and facts.recipe.head is not None:
        return _named(facts.recipe, facts.recipe.head), f"the recipe {facts.recipe.name} says so"
    named = facts.recipe is not None and facts.recipe.head_tensor is not None
    claims = {} if named else _claims(facts, fallback=False)
    claims = claims or _claims(facts, fallback=True)
    best = [name for name, claimed in claims.items() if not any(claimed < other for other in claims.values())]
    if len(best) == 1:
        return best[0], _reason(claims, best[0])
    raise UnsupportedModel(_no_single_head(facts, best))


def _claims(facts: HeadFacts, *, fallback: bool) -> dict[str, frozenset[str]]:
    """The claims of each head that has any, by the head's name."""
    asked = [head for head in heads().values() if head.fallback == fallback]
    found = {head.name: frozenset(head.claims(facts)) for head in asked}
    return {name: claimed for name, claimed in found.items() if claimed}


def refuse_known(candidate: Candidate) -> None:
    """Raises the UnsupportedModel of a head that is known but does not score single conversations."""
    for head in heads().values():
        if isinstance(head, RefusedHead) and head.claims(candidate):
            head.refuse(candidate)


def _named(recipe: Recipe, name: str) -> str:
    if name not in heads():
        raise OptionError(
            f"recipe {recipe.name!r} names the head {name!r}, expected one of {', '.join(sorted(heads()))}"
        )
    return name


def _reason(claims: Mapping[str, frozenset[str]], chosen: str) -> str:
    there = listing(sorted(claims[chosen]), most=6)
    others = sorted(set(claims) - {chosen})
    return f"the checkpoint has {there}" + (f" (more than {', '.join(others)} accounts for)" if others else "")


def _no_single_head(facts: HeadFacts, matching: list[str]) -> str:
    outside = _outside(facts)
    found = f"architecture {facts.architecture}, tensors outside the backbone: {', '.join(outside[:12]) or 'none'}"
    if matching:
        return f"{found}: these heads all match: {', '.join(sorted(matching))}; choose with --recipe"
    near = difflib.get_close_matches(facts.architecture.lower(), heads(), n=1, cutoff=0.0)
    hint = f"; the nearest head is {near[0]!r}" if near else ""
    names = ", ".join(recipe.name for recipe in recipes().values() if recipe.tokens or recipe.token_ids)
    causal = f" A causal LM needs --recipe ({names}, or a file)." if facts.lm_head in outside else ""
    causal = causal or " If it is one of these under another name, say so with --recipe (a name or a file)."
    return (
        f"no reward head recognised ({found}){hint} (known: {', '.join(sorted(heads()))}).{_candidates(facts)}{causal}"
    )


def _outside(facts: HeadFacts) -> list[str]:
    """The tensors outside the backbone, whatever prefix the checkpoint has for that."""
    prefixes = found_prefix(facts.embedding, facts.tensors)
    stem = ".".join(rename(facts.embedding, prefixes).split(".")[:-2])
    if stem:
        return sorted(name for name in facts.tensors if not name.startswith(f"{stem}."))
    leaf = ".".join(facts.embedding.split(".")[-2:])
    return sorted(name for name in facts.tensors if name != leaf and not name.startswith("layers."))


def _candidates(facts: HeadFacts) -> str:
    """A sentence that lists the tensors which could be a head by their shape, and how to name one in a recipe."""
    found = facts.one_row_layers.values()
    if not found:
        return ""
    shown = ", ".join(f"{info.name} {list(info.shape)}" for info in found)
    first = next(iter(found)).name
    return f' Of the right shape are {shown}: name the head in a recipe of your own, such as "head_tensor": "{first}".'
