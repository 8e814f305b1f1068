"""Checks the values of every options class: against the fields' annotations, and against limits for its numbers.

Options come from people, so any field may hold a value of any type; the message names the field that is wrong.
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
    """The least and the most that a number may be; for messages, what is expected (`noun`) and why not more (`why`)."""

    least: float
    most: float
    noun: str = ""
    why: str = ""


THREADS = Limit(0, 1024, "a number of threads, 0 for the engine's choice", "more than any machine has processors")
BYTES = Limit(1, 1 << 60, "a number of bytes", "more than any machine's memory")
TOKENS = Limit(1, 1 << 40, why="more than any memory holds")
COUNT = Limit(1, 1_000_000_000)

Limits = Mapping[str, Limit]
_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}


def check_fields(
    options: Any, limits: Limits, *, error: type[Exception] = OptionError, label: Callable[[str], str] = str
) -> None:
    """Raises `error` for a field of the dataclass `options` whose value its annotation or its limit does not allow.

    `limits` are those of numbers, by field; `label` turns a field's name into the name that people know it by.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Options:
    ...     repeats: int
    >>> check_fields(Options(repeats=0), {"repeats": COUNT}, label="--{}".format)
    Traceback (most recent call last):
    rmruntime.errors.OptionError: --repeats is 0, expected at least 1
    """
    hints = _hints(type(options))  # type: ignore[arg-type] # mypy takes no dataclass for Hashable
    for field in fields(options):
        name, value = field.name, getattr(options, field.name)
        if isinstance(value, numbers.Integral) and not isinstance(value, int):
            value = int(value)  # numpy's integers are accepted, and become Python's, which JSON can hold
            object.__setattr__(options, name, value)
        check_value(label(name), value, hints[name], limits.get(name), error=error)


def check_value(
    name: str, value: object, hint: Any, limit: Limit | None = None, *, error: type[Exception] = OptionError
) -> None:
    """Raises `error` for a value that the annotation `hint` or the limit does not allow; `name` is for the message.

    >>> check_value("threads", 4, int, THREADS)
    """
    if not _fits(hint, value) or (limit is not None and _is_outside(value, limit)):
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


def _is_outside(value: object, limit: Limit) -> bool:
    """Whether a number, or one of a list of numbers, is outside its limit; False for other values."""
    several = value if isinstance(value, (tuple, list)) else (value,)
    return not all(limit.least <= number <= limit.most for number in several if isinstance(number, (int, float)))


def _expected(hint: Any, value: object, limit: Limit | None) -> str:
    """What the annotation and the limit allow, as a phrase; for a number, the limit that `value` is beyond."""
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
    word = _TYPE_NAMES.get(hint) or f"a {hint.__name__}"
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
