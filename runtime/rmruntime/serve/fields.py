"""Reads the fields of a JSON body, and refuses those of the wrong type by name; others may be there too."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from rmruntime.serve.problems import Refused

_SHOWN = 80  # characters of a wrong value in a message
_BOUNDED = reprlib.Repr()  # of a body's size, the repr of a whole value would hold up all other requests
_BOUNDED.maxlist = _BOUNDED.maxdict = _BOUNDED.maxstring = _BOUNDED.maxlong = 2 * _SHOWN


class Fields:
    """The fields of one JSON object. A field that is null counts as absent. All methods raise Refused ("malformed").

    >>> fields = Fields({"query": "2 + 2?", "top_n": 3, "model": None})
    >>> fields.text("query"), fields.integer("top_n", least=0), fields.optional_text("model")
    ('2 + 2?', 3, None)
    >>> fields.texts("documents")
    Traceback (most recent call last):
    rmruntime.serve.problems.Refused: documents: found none, expected a list of texts
    """

    def __init__(self, data: Any) -> None:
        if not isinstance(data, Mapping):
            raise Refused("malformed", f"the body: found {shown(data)}, expected a JSON object")
        self.given: Mapping[str, Any] = {name: value for name, value in data.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def value(self, name: str, default: Any = None) -> Any:
        """Whatever the field has; `default` without it."""
        return self.given.get(name, default)

    def required(self, name: str, expected: str) -> Any:
        """Whatever the field has, which must be there."""
        if name not in self.given:
            raise wrong(name, None, expected)
        return self.given[name]

    def text(self, name: str) -> str:
        """A text that must be there."""
        return _text(name, self.required(name, "a text"))

    def optional_text(self, name: str) -> str | None:
        """A text, or None."""
        return _text(name, self.given[name]) if name in self.given else None

    def texts(self, name: str, *, or_one: bool = False) -> list[str]:
        """A list of texts that must be there; with `or_one` a lone text counts as a list of one."""
        found = self.required(name, "a list of texts")
        items = [found] if or_one and isinstance(found, str) else found
        if not isinstance(items, list):
            raise wrong(name, found, "a text or a list of texts" if or_one else "a list of texts")
        return [_text(f"{name}[{index}]", item) for index, item in enumerate(items)]

    def items(self, name: str, expected: str = "a list") -> list[Any]:
        """A list of anything that must be there."""
        found = self.required(name, expected)
        if not isinstance(found, list):
            raise wrong(name, found, expected)
        return found

    def flag(self, name: str) -> bool | None:
        """True, False, or None where it is absent."""
        found = self.given.get(name)
        if found is not None and not isinstance(found, bool):
            raise wrong(name, found, "true or false")
        return found

    def integer(self, name: str, *, least: int = 0) -> int | None:
        """A whole number of at least `least`, or None where it is absent."""
        found = self.given.get(name)
        if found is None:
            return None
        if type(found) is not int or found < least:
            raise wrong(name, found, f"a whole number of at least {least}")
        return found

    def refuse(self, offered: Mapping[str, str]) -> None:
        """Refuse what is not offered: each field of `offered` that asks for something, by what is expected instead."""
        for name, expected in offered.items():
            if self.value(name):
                raise wrong(name, self.value(name), expected)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """One of `choices`; `default` where it is absent."""
        found = self.given.get(name, default)
        if found not in choices:
            raise wrong(name, found, f"one of {', '.join(choices)}")
        return str(found)


def wrong(name: str, found: object, expected: str) -> Refused:
    """The refusal of a field's value, to raise.

    >>> wrong("input", 5, "a text").problem.message
    'input: found 5, expected a text'
    """
    return Refused("malformed", f"{name}: found {shown(found)}, expected {expected}", field=name.partition("[")[0])


def shown(value: object) -> str:
    """A value for a message, cut short.

    >>> shown(["a"] * 1000)[-3:]
    '...'
    """
    if value is None:
        return "none"
    text = _BOUNDED.repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise wrong(name, value, "a text")
    return value
