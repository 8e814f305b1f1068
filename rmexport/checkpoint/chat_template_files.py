"""Finds a checkpoint's chat template in the four places where it may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexport.checkpoint.config_fields import read_json_object
from rmexport.errors import CheckpointError

JINJA, PROCESSOR = "chat_template.jinja", "chat_template.json"
_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class FoundTemplate:
    """The template that transformers would use, None when there is none; `notes` tell of other ones that differ."""

    text: str | None
    notes: tuple[str, ...] = ()


def find_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> FoundTemplate:
    """The chat template, in transformers' order: the .jinja file, the tokenizer's config, the processor's file.

    Raises CheckpointError for a named list without "default" and for anything that is not text.

    >>> find_template(Path(), {"chat_template": "{{ messages[0].content }}"}).text
    '{{ messages[0].content }}'
    """
    candidates = {
        JINJA: _jinja(folder / JINJA),
        _CONFIG: _stated(_CONFIG, tokenizer_config.get("chat_template")),
        PROCESSOR: _processor(folder / PROCESSOR),
    }
    found = {place: text for place, text in candidates.items() if text is not None}
    if not found:
        return FoundTemplate(None)
    chosen, *others = found
    differing = [place for place in others if found[place] != found[chosen]]
    notes = tuple(f"the chat templates in {chosen} and {place} differ: {chosen} is used" for place in differing)
    return FoundTemplate(found[chosen], notes)


def _jinja(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeError) as error:
        raise CheckpointError(f"{path} is not UTF-8 text ({error}); restore it from the original checkpoint") from error


def _processor(path: Path) -> str | None:
    return _stated(PROCESSOR, read_json_object(path).get("chat_template")) if path.is_file() else None


def _stated(place: str, value: Any) -> str | None:
    """The template in a field of a JSON file: text, or "default" of a list or an object of named templates."""
    if value is None or isinstance(value, str):
        return value
    named = value
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        named = {item.get("name"): item.get("template") for item in value}
    if not isinstance(named, dict) or not all(isinstance(text, str) for text in named.values()):
        raise CheckpointError(
            f"{place}: chat_template is neither text nor a list of named templates; restore the original"
        )
    if "default" not in named:
        raise CheckpointError(
            f"{place} has the chat templates {', '.join(map(str, named))} and no 'default'; "
            f"write the one to score with to {JINJA}"
        )
    return str(named["default"])
