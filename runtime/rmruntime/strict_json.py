"""Turns parsed JSON into frozen dataclasses, refusing what the annotations do not allow."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from rmruntime.errors import BundleError

T = TypeVar("T")


def decode_dataclass(kind: type[T], data: Any, *, where: str) -> T:
    """An instance of dataclass `kind` from a JSON object; `where` names the place in messages.

    Raises BundleError for missing or unknown fields and for values of another type.
    """
    if not isinstance(data, dict):
        raise BundleError(f"{where}: found {type(data).__name__}, expected an object")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type] # callers pass dataclasses
    if unknown := sorted(set(data) - set(fields)):
        raise BundleError(f"{where}: unknown field(s) {', '.join(unknown)}")
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(data)):
        raise BundleError(f"{where}: missing field(s) {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    values = {name: _decode(hints[name], value, f"{where}: {name}") for name, value in data.items()}
    return kind(**values)


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is Literal:
        return _checked(value in arguments, value, f"one of {', '.join(map(str, arguments))}", where)
    if origin is tuple:
        _checked(isinstance(value, list), value, "a list", where)
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        _checked(isinstance(value, dict), value, "an object", where)
        return {str(k): _decode(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode_dataclass(hint, value, where=where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wrong = not isinstance(value, hint) or (hint is int and isinstance(value, bool))
    return _checked(not wrong, value, hint.__name__, where)


def _decode_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    [choice] = [c for c in choices if c is not type(None)]
    return _decode(choice, value, where)


def _checked(good: bool, value: Any, expected: str, where: str) -> Any:
    if not good:
        raise BundleError(f"{where}: found {value!r}, expected {expected}")
    return value
