"""Recipes: what a checkpoint's own files do not say, as one small JSON file each in rmexport/recipes/."""

import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from rmexport.errors import OptionError
from rmruntime.errors import BundleError
from rmruntime.manifest import BosPolicy, Per
from rmruntime.strict_json import decode_dataclass


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a known checkpoint is scored.

    `repos` are the Hub repositories it is chosen for unasked. `tokens` are the good and bad reply of a token-logits
    head; `unit` says whether a whole response or one step is judged a turn. The other fields go to the manifest's
    Format, and replace what the checkpoint's files would say. `objectives` and `score_label` name a head's outputs.
    """

    name: str
    head: str
    description: str
    repos: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    reply: str | None = None
    unit: Per = "sequence"
    layout: Literal["chat", "graded_turns"] = "chat"
    response_joiner: str = " "
    remove: tuple[str, ...] = ()
    step_separators: tuple[str, ...] = ()
    step_joiner: str | None = None
    bos: BosPolicy | None = None
    objectives: tuple[str, ...] = ()
    score_label: str | None = None


@cache
def recipes() -> dict[str, Recipe]:
    """The built-in recipes by name."""
    folder = files("rmexport") / "recipes"
    found = [_parse(entry.read_text(), entry.name) for entry in folder.iterdir() if entry.name.endswith(".json")]
    return {recipe.name: recipe for recipe in sorted(found, key=lambda r: r.name)}


def recipe_for(name: str | None, repo: str | None) -> Recipe | None:
    """The recipe asked for by name or by a file's path, else the one that lists the Hub repository, else None.

    Raises OptionError for a name that is neither.
    """
    if name is None:
        return next((r for r in recipes().values() if repo in r.repos), None)
    if name in recipes():
        return recipes()[name]
    if name.endswith(".json") and Path(name).is_file():
        return _parse(Path(name).read_text(), name)
    near = difflib.get_close_matches(name, recipes(), n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise OptionError(f"no recipe {name!r} (known: {', '.join(recipes())}, or a path to a .json file){hint}")


def _parse(text: str, where: str) -> Recipe:
    try:
        return decode_dataclass(Recipe, json.loads(text), where=f"recipe {where}")
    except (ValueError, BundleError) as error:
        raise OptionError(f"recipe {where} cannot be read: {error}") from error
