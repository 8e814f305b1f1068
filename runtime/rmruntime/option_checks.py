"""Checks the values of every options class in one way: by their annotations, and by the limits of its numbers.

Options come from people, so a value of any type may stand in any field, and each wrong one is told by its name.
"""

import numbers
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, NamedTuple

from rmruntime.errors import OptionError


class Limit(NamedTuple):
    """The least and the most that a number may be, what it is in words, and why it may not be more."""

    least: float
    most: float
    noun: str = ""
    why: str = ""


THREADS = Limit(0, 1024, "a number of threads, 0 for the engine's choice", "more than any machine has processors")
BYTES = Limit(1, 1 << 60, "a number of bytes", "more than any machine's memory")
TOKENS = Limit(1, 1 << 40, why="more than any memory holds")
COUNT = Limit(1, 1_000_000_000)

Limits = Mapping[str, Limit]
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}


def check_fields(
    options: Any, limits: Limits, *, error: type[Exception] = OptionError, label: Callable[[str], str] = str
) -> None:
    """Raises `error` for a field of the dataclass `options` whose value its annotation or its limit does not allow.

    `limits` are those of numbers, by field; `label` is what a field is called where people set it.
    """
    hints = _hints(type(options))  # type: ignore[arg-type] # mypy takes no dataclass for Hashable
    for field in fields(options):
        name, value = field.name, getattr(options, field.name)
        if isinstance(value, numbers.Integral) and not isinstance(value, int):
            value = int(value)  # numpy's whole numbers are welcome, and go no further: JSON has no word for them
            object.__setattr__(options, name, value)
        check_value(label(name), value, hints[name], limits.get(name), error=error)


def check_value(
    name: str, value: object, hint: Any, limit: Limit | None = None, *, error: type[Exception] = OptionError
) -> None:
    """The same for one value, which people call `name`, and the annotation `hint`."""
    if not _fits(hint, value) or (limit is not None and _strays(value, limit)):
        raise error(f"{name} is {_shown(value)}, expected {_expected(hint, value, limit)}")


@cache
def _hints(kind: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _fits(hint: Any, value: object) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(choice, value) for choice in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments  # an array would compare by element
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_fits(arguments[0], item) for item in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _fits(arguments[0], key) and _fits(arguments[1], item) for key, item in value.items()
        )
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _strays(value: object, limit: Limit) -> bool:
    """Whether a number, or one of several, is outside its limit; what is no number has none."""
    several = value if isinstance(value, (tuple, list)) else (value,)
    return not all(limit.least <= number <= limit.most for number in several if isinstance(number, (int, float)))


def _expected(hint: Any, value: object, limit: Limit | None) -> str:
    """What the annotation and the limit allow, in words; of a number's limits the one that `value` is beyond."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        several = [_expected(choice, value, limit) for choice in arguments]
        if several[0].startswith("one of "):
            return ", ".join(several)
        return " or ".join(repr(w[7:]) if w.startswith("one of ") else w for w in several)
    if origin is Literal:
        return "one of " + ", ".join(arguments)
    if origin is tuple:
        return f"a list, each {_expected(arguments[0], value[0] if value else value, limit)}"  # type: ignore[index]
    if origin is Mapping:
        return "names with their values"
    word = _WORDS.get(hint) or f"a {hint.__name__}"
    return _number(value, limit, word) if limit and hint in (int, float) else word


def _number(value: object, limit: Limit, word: str) -> str:
    if isinstance(value, (int, float)) and value > limit.most:
        return f"at most {limit.most:,}" + (f" ({limit.why})" if limit.why else "")
    if limit.noun:
        return limit.noun
    return ("" if isinstance(value, (int, float)) and not isinstance(value, bool) else f"{word}, ") + (
        f"at least {limit.least:,}"
    )


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write a number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else text[:57] + "..."
