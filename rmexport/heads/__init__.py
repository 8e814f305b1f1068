"""What turns hidden states into rewards, one file each, found by tensor inventory; a file here is named nowhere else.

A head module has NAME, `matches(facts)`, `read_spec(facts)` giving a HeadSpec, `build(dialect, spec, hidden)` adding
the graph's outputs, and `reference(spec, hidden, weights)`, the published formula on torch tensors for the parity gate.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import onnx_ir as ir

from rmexport.chat_text import ChatText
from rmexport.checkpoint import TensorInfo
from rmexport.errors import OptionError, UnsupportedModel
from rmexport.graph.vocabulary import Dialect
from rmexport.options import ExportOptions
from rmexport.recipe import Recipe, recipes
from rmruntime.manifest import Output, PositionRule


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """What a head may look at to recognise itself and to read its settings."""

    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    hidden_size: int
    text: ChatText
    recipe: Recipe | None
    options: ExportOptions

    def tensor(self, name: str) -> TensorInfo:
        """A tensor that the head cannot do without; raises UnsupportedModel when a recipe chose the wrong head."""
        if name not in self.tensors:
            asked = f"recipe {self.recipe.name!r}" if self.recipe else "this head"
            raise UnsupportedModel(f"{asked} needs the tensor {name}, which the checkpoint does not have")
        return self.tensors[name]


@dataclass(frozen=True, kw_only=True)
class TensorRows:
    """A weight made of some rows of a checkpoint tensor, in this order."""

    source: str
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """A head as data: where it reads, what it gives, and its own settings.

    `score` names the output that is the score, None when no single number is defined. `derived` are weights that the
    checkpoint does not hold as such. `ignored` are checkpoint tensors that this head knowingly leaves out.
    """

    positions: Mapping[str, PositionRule]
    outputs: tuple[Output, ...]
    score: str | None
    settings: Any
    derived: Mapping[str, TensorRows] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Head(Protocol):
    """A head module."""

    NAME: str

    def matches(self, facts: HeadFacts) -> bool: ...
    def read_spec(self, facts: HeadFacts) -> HeadSpec: ...
    def build(self, dialect: Dialect, spec: HeadSpec, hidden: ir.Value) -> None: ...
    def reference(self, spec: HeadSpec, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]: ...


@cache
def heads() -> dict[str, Head]:
    """Every head by its NAME."""
    found: dict[str, Head] = {}
    for info in pkgutil.iter_modules(__path__):
        module: Any = importlib.import_module(f"{__name__}.{info.name}")
        found[module.NAME] = module
    return found


def head_of(facts: HeadFacts) -> Head:
    """The one head that a checkpoint has: the recipe's, else the one whose tensors are there.

    Raises UnsupportedModel when none or several match, naming the candidates and `--recipe`.
    """
    known = heads()
    if facts.recipe is not None:
        if facts.recipe.head not in known:
            raise OptionError(
                f"recipe {facts.recipe.name!r} names the head {facts.recipe.head!r}; known: {', '.join(sorted(known))}"
            )
        return known[facts.recipe.head]
    matching = [head for head in known.values() if head.matches(facts)]
    if len(matching) == 1:
        return matching[0]
    raise UnsupportedModel(_no_single_head(facts, [head.NAME for head in matching]))


def _no_single_head(facts: HeadFacts, matching: list[str]) -> str:
    architecture = str((facts.config.get("architectures") or ["?"])[0])
    outside = sorted(name for name in facts.tensors if not name.startswith("model."))
    found = f"architecture {architecture}, tensors outside the backbone: {', '.join(outside[:12]) or 'none'}"
    if matching:
        return f"{found}: these heads all match: {', '.join(matching)}; choose with --recipe"
    near = difflib.get_close_matches(architecture.lower(), heads(), n=1, cutoff=0.0)
    hint = f"; the nearest head is {near[0]!r}" if near else ""
    names = ", ".join(recipe.name for recipe in recipes().values() if recipe.tokens)
    causal = f" A causal LM needs --recipe ({names}, or a file)." if "lm_head.weight" in outside else ""
    return f"no reward head recognised ({found}){hint} (known: {', '.join(sorted(heads()))}).{causal}"
