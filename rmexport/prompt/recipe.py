"""Recipes: what a checkpoint's own files do not say, as one small JSON file each in rmexport/recipes/."""

import difflib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from rmexport.errors import OptionError
from rmruntime.bundle.bundle import MANIFEST_LIMIT
from rmruntime.bundle.manifest import BosPolicy, Per
from rmruntime.bundle.regular_files import read_regular
from rmruntime.bundle.strict_json import decode_dataclass
from rmruntime.errors import BundleError
from rmruntime.modules import is_choice

_NEEDED = {  # layout -> the field that it cannot do without
    "graded_turns": "reply",
    "tagged_steps": "step_tag",
    "separated_steps": "step_separator",
    "preference": "preference_template",
}
_ONLY_IN = {  # field -> the layouts that read it
    "reply": ("chat", "graded_turns"),
    "question": ("chat",),
    "takes_instruction": ("chat",),  # elsewhere the text says so
    "step_tag": ("tagged_steps",),
    "step_separator": ("separated_steps",),
    "preference_template": ("preference",),
    "position": ("chat", "preference", "query_document"),
    "generation_prompt": ("chat", "separated_steps", "preference", "query_document"),
    "pieces": ("query_document",),
    "append": ("chat", "graded_turns", "tagged_steps", "separated_steps", "preference"),  # pieces end as they say
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a known checkpoint is scored.

    `repos` are the Hub repositories it is chosen for unasked. `head` None leaves the head to the tensors. `tokens` are
    the good and bad reply of a token-logits head, `token_ids` the same as ids where no text says them (one id: its raw
    logit is the score). With `objectives`, the tokens' names, or `token_values`, a number for each, there may be more:
    `score_label` is the one whose probability is the score, and with values the score is their mean, weighted by the
    probabilities. `position` overrides the token that the head reads; `activation` is applied to its score;
    `normalize` takes (score - mean) / std with the config's numbers; `negate` turns costs into rewards.
    `head_tensor` names the weight of one row that is the head where several could be; `drop_bias` leaves the head's
    bias out, as transformers does with a sequence classifier's.
    `template` is a chat template (Jinja text) in place of the checkpoint's. `append` is text put after every
    conversation that does not already end in it; `objectives` and `score_label` name a head's outputs, `score_output`
    the one that is the score (log-odds in place of a probability). `unit` says whether a whole response or one step is
    judged. `takes_instruction`: the template reads a system turn as its policy or principle. The other fields are those
    of the manifest's Format.
    """

    name: str
    description: str
    head: str | None = None
    repos: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    token_values: tuple[float, ...] = ()
    position: Literal["last", "last_not_pad", "before_first_pad"] | None = None
    activation: Literal["sigmoid"] | None = None
    normalize: bool = False
    negate: bool = False
    head_tensor: str | None = None
    drop_bias: bool = False
    template: str | None = None
    append: str | None = None
    reply: str | None = None
    unit: Per = "sequence"
    layout: Literal["chat", "graded_turns", "tagged_steps", "separated_steps", "preference", "query_document"] = "chat"
    system: str | None = None
    generation_prompt: bool = False
    question: str | None = None
    takes_instruction: bool = False
    preference_template: str | None = None
    pieces: tuple[str, ...] = ()
    response_joiner: str = " "
    remove: tuple[str, ...] = ()
    step_separators: tuple[str, ...] = ()
    step_joiner: str | None = None
    step_tag: str | None = None
    step_separator: str | None = None
    bos: BosPolicy | None = None
    objectives: tuple[str, ...] = ()
    score_label: str | None = None
    score_output: Literal["logit"] | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a layout without what it writes or with what it does not read, and for unfit ids."""
        needed = _NEEDED.get(self.layout)
        if needed is not None and not getattr(self, needed):
            raise OptionError(f"recipe {self.name!r} has layout {self.layout} and no {needed}: add it")
        for name, layouts in _ONLY_IN.items():
            if getattr(self, name) and self.layout not in layouts:
                raise OptionError(
                    f"recipe {self.name!r} has layout {self.layout} and {name}, which only {' and '.join(layouts)} "
                    "reads: take it out, or change the layout"
                )
        if self.pieces and self.template is not None:
            raise OptionError(f"recipe {self.name!r} has pieces and a template, which both write a text: leave one out")
        if self.step_separators and self.unit != "step":
            raise OptionError(
                f"recipe {self.name!r} has step_separators and unit {self.unit!r}, which never splits an answer: "
                'add "unit": "step", or take step_separators out'
            )
        if self.tokens and self.token_ids:
            raise OptionError(f"recipe {self.name!r} has tokens and token_ids, which say the same: leave one out")
        if self.token_values and len(self.token_values) != len(self.tokens or self.token_ids):
            raise OptionError(
                f"recipe {self.name!r} has {len(self.token_values)} token_values for "
                f"{len(self.tokens or self.token_ids)} tokens, expected one for each"
            )
        if any(token < 0 for token in self.token_ids):
            raise OptionError(f"recipe {self.name!r} has token_ids {list(self.token_ids)}, expected ids from 0 on")


PLAIN = Recipe(name="", description="")  # everything as the checkpoint's own files say


@cache
def recipes() -> dict[str, Recipe]:
    """The built-in recipes by name.

    >>> recipes()["qwen2.5-math-prm"].layout
    'tagged_steps'
    """
    folder = files("rmexport") / "recipes"
    found = [
        _parse(entry.read_text(), entry.name)
        for entry in folder.iterdir()
        if entry.name.endswith(".json") and is_choice(entry.name)
    ]
    return {recipe.name: recipe for recipe in sorted(found, key=lambda r: r.name)}


def recipe_for(name: str | None, repo: str | None) -> Recipe | None:
    """The recipe asked for by name or by a file's path, else the one that lists the Hub repository, else None.

    Raises OptionError for a name that is neither.

    >>> recipe_for("qwen2.5-math-prm", None).step_tag
    '<extra_0>'
    >>> recipe_for(None, "someone/else") is None
    True
    """
    if name is None:
        return next((r for r in recipes().values() if repo in r.repos), None)
    if name in recipes():
        return recipes()[name]
    if name.endswith(".json"):
        if not Path(name).is_file():
            raise OptionError(f"the recipe {name!r} is not a file; check the path, or name a built-in recipe")
        return _read(Path(name))
    near = difflib.get_close_matches(name, recipes(), n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise OptionError(f"no recipe {name!r} (known: {', '.join(recipes())}, or a path to a .json file){hint}")


def _read(path: Path) -> Recipe:
    try:
        return _parse(read_regular(path, MANIFEST_LIMIT).decode(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"recipe {path} cannot be read: {error}") from error


def _parse(text: str, where: str) -> Recipe:
    try:
        return decode_dataclass(Recipe, json.loads(text), where=f"recipe {where}")
    except (ValueError, RecursionError, BundleError) as error:
        raise OptionError(f"recipe {where} cannot be read: {error}") from error
