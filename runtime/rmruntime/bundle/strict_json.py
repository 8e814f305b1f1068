"""Turns parsed JSON into frozen dataclasses, and refuses values that the annotations do not allow.

A field's annotation may say more than its type: `Annotated[int, Between(1, 9)]`, `Annotated[str, Matching("[a-z]+")]`,
`Annotated[str, OneOf("a", "b")]`, `Annotated[tuple[int, ...], Items(1, 9)]`.
"""

import dataclasses
import json
import re
import reprlib
import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from rmruntime.errors import BundleError

T = TypeVar("T")
TEXT_LIMIT = 1 << 20  # characters of one text
_SURROGATE = re.compile("[\ud800-\udfff]")
_LISTED = 10  # names in one message
_SHOWN = reprlib.Repr()  # of values that may be large
_SHOWN.maxstring = _SHOWN.maxother = 120


@dataclass(frozen=True)
class Between:
    """A rule for whole numbers: from `least` to `most`.

    >>> Between(0, 9).allows(10), str(Between(0, 9))
    (False, '0 to 9')
    """

    least: int
    most: int

    def allows(self, value: Any) -> bool:
        return bool(self.least <= value <= self.most)

    def __str__(self) -> str:
        return f"{self.least} to {self.most}"


@dataclass(frozen=True)
class Matching:
    """A rule for texts: the pattern matches all of it; `meaning` is what messages name as expected.

    >>> Matching("[0-9a-f]+", "hexadecimal digits").allows("c0ffee")
    True
    """

    pattern: str
    meaning: str

    def allows(self, value: Any) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.meaning


class OneOf:
    """A rule for texts: one of `choices`. Unlike Literal it leaves the annotation a plain `str`.

    >>> str(OneOf("fp32", "bf16"))
    'one of fp32, bf16'
    """

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def allows(self, value: Any) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(self.choices)}"


@dataclass(frozen=True)
class Items:
    """A rule for lists: `least` to `most` items, none twice if `distinct`.

    >>> Items(1, 3, distinct=True).allows(("a", "a"))
    False
    """

    least: int
    most: int
    distinct: bool = False

    def allows(self, value: Any) -> bool:
        return self.least <= len(value) <= self.most and not (self.distinct and len(set(value)) < len(value))

    def __str__(self) -> str:
        return f"{self.least} to {self.most} items{', none of them twice' if self.distinct else ''}"


_Rule = Between | Matching | OneOf | Items


def parse_json(raw: bytes) -> Any:
    """The value of `raw`, JSON in UTF-8. Raises ValueError, also for NaN, Infinity, duplicate names and deep nesting.

    >>> parse_json(b'{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = [name for name, count in counts.items() if count > 1]
        raise ValueError(f"duplicate name(s) {', '.join(map(repr, twice[:_LISTED]))}")
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def decode_dataclass(kind: type[T], data: Any, *, where: str) -> T:
    """An instance of dataclass `kind` from a JSON object; `where` names the place in messages.

    Raises BundleError for missing or unknown fields, for values of another type, and for those that the field's
    annotation rules out.

    >>> @dataclass(frozen=True)
    ... class Digit:
    ...     value: Annotated[int, Between(0, 9)]
    >>> decode_dataclass(Digit, {"value": 3}, where="digit")
    Digit(value=3)
    """
    if not isinstance(data, dict):
        raise BundleError(f"{where}: found {type(data).__name__}, expected an object")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type] # callers pass dataclasses
    if unknown := sorted(set(data) - set(fields)):
        raise BundleError(f"{where}: unknown field(s) {_SHOWN.repr(unknown)}")
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(data)):
        raise BundleError(f"{where}: missing field(s) {', '.join(missing)}")
    hints = _hints(kind)  # type: ignore[arg-type] # a class, which mypy does not take for hashable
    values = {name: _decode(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    return kind(**values)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _decode_annotated(arguments[0], arguments[1:], value, where)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is Literal:
        good = isinstance(value, str) and value in arguments
        return _checked(good, value, f"one of {', '.join(map(str, arguments))}", where)
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin is Mapping:
        _checked(isinstance(value, dict), value, "an object", where)
        return {_text(k, where): _decode(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode_dataclass(hint, value, where=where)
    return _decode_plain(hint, value, where)


def _decode_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    _checked(not wrong, value, hint.__name__, where)
    return _text(value, where) if hint is str else value


def _decode_annotated(hint: Any, rules: tuple[_Rule, ...], value: Any, where: str) -> Any:
    decoded = _decode(hint, value, where)
    if decoded is not None:
        for rule in rules:
            _checked(rule.allows(decoded), value, str(rule), where)
    return decoded


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    _checked(isinstance(value, list), value, "a list", where)
    kinds = arguments
    if arguments[-1] is Ellipsis:
        kinds = arguments[:1] * len(value)
    _checked(len(kinds) == len(value), value, f"a list of {len(kinds)}", where)
    return tuple(_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


def _decode_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    [choice] = [c for c in choices if c is not type(None)]
    return _decode(choice, value, where)


def _text(value: str, where: str) -> str:
    _checked(len(value) <= TEXT_LIMIT, value, f"at most {TEXT_LIMIT} characters", where)
    _checked(not _SURROGATE.search(value), value, "text without lone surrogates", where)
    return value


def _checked(good: bool, value: Any, expected: str, where: str) -> Any:
    if not good:
        raise BundleError(f"{where}: found {_SHOWN.repr(value)}, expected {expected}")
    return value
