"""Jinja's sandbox with a budget: what operators, filters and methods will make is estimated before they make it."""

import re
import types
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rmruntime.text.template_budget import (
    WEIGHTLESS,
    budget,
    check_bits,
    check_size,
    compared,
    compared_texts,
    counted,
    examined,
    one_deeper,
    printed,
    sized,
    spend,
    text_size,
    weighed,
)
from rmruntime.text.template_rewrite import FILTERS, rewrite

_CALL_STEPS = 50  # besides those of a macro's body
_RECURSED_STEPS = 16  # for an item of a loop that calls itself, besides those of the loop's body
# Filters that look at no more than an item at a time, when somebody asks for it: as Jinja has them.
_FREE_FILTERS = frozenset("attr count d default first items last length".split())
# Those that do so with every item.
_LAZY_FILTERS = frozenset("map reject rejectattr select selectattr".split())
_ITEM_STEPS = 16
_LINK_STEPS = 2  # for each character in which links are looked for
_WRAP_SCAN = 8  # bits: wrapping a line looks at so many pairs of its characters in a step
# Those that look at all items and make no text of them.
_TEXTLESS_FILTERS = frozenset("abs dictsort groupby list max min reverse sort unique".split())
_WIDTHS = re.compile(r"\d+")
_WIDTH_FROM_VALUE = re.compile(r"\{[^{}]*\{")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _widths(form: str) -> int:
    """The numbers in a format, added up: widths and precisions are among them."""
    return sum(int(digits) if len(digits) < 10 else 1 << 40 for digits in _WIDTHS.findall(form))


def _formatted(form: str, values: Iterable[Any]) -> int:
    """About how long a formatted text can become: every field with the longest value, and every width."""
    fields = form.count("%") + form.count("{")
    arguments = list(values)
    longest = max([text_size(value) for value in arguments], default=0)
    takes_widths = "*" in form or _WIDTH_FROM_VALUE.search(form)  # "%*d", "{:{}}", "{:{a[0]}}"
    widths = _widths(str(arguments)) if takes_widths else 0
    return len(form) + fields * longest + _widths(form) + widths


def _replaced(text: Any, old: Any = "", new: Any = "", *rest: Any, **named: Any) -> int:
    value, new_text = _text(text), _text(new)
    return len(value) + value.count(_text(old)) * len(new_text)


def _joined(items: Any, separator: Any = "") -> int:
    parts = items if isinstance(items, (list, tuple, str, dict)) else list(items)
    return sum(text_size(part) for part in parts) + len(parts) * text_size(separator)


def _wide(text: Any, width: Any = 80, *rest: Any, **named: Any) -> int:
    return text_size(text) + abs(int(width))


def _indented(text: Any, width: Any = 4, *rest: Any, **named: Any) -> int:
    value = _text(text)
    return len(value) + (value.count("\n") + 2) * (len(width) if isinstance(width, str) else abs(int(width)))


def _wrapped(text: Any, *rest: Any, **named: Any) -> int:
    separator = named.get("wrapstring", rest[2] if len(rest) > 2 else None)
    longest = max(map(len, _text(text).splitlines()), default=0)
    spend(longest**2 >> _WRAP_SCAN)
    return text_size(text) * (1 + len(_text(separator or "\n")))


def _linked(text: Any, *rest: Any, **named: Any) -> int:
    spend(_LINK_STEPS * text_size(text))
    return 0


def _batched(items: Any, count: Any, *rest: Any, **named: Any) -> int:
    return abs(int(count))


def _as_json(value: Any, *rest: Any, indent: Any = None, **named: Any) -> int:
    indent = rest[1] if len(rest) > 1 else indent
    width = len(indent) if isinstance(indent, str) else abs(int(indent or 0))
    return text_size(value) * (1 + width)


def _rounded(value: Any, precision: Any = 0, *rest: Any, **named: Any) -> int:
    check_bits(4 * abs(int(precision)))
    return 0


def _summed(items: Any, attribute: Any = None, start: Any = 0, **named: Any) -> int:
    if not isinstance(start, (int, float)):
        raise SecurityError("the filter sum adds up numbers alone")
    return 0


# What a filter makes of its value and arguments, in characters or items at most; others make little more than they get.
_FILTER_SIZES: Mapping[str, Callable[..., int]] = {
    "batch": _batched,
    "center": _wide,
    "format": lambda form, *values, **named: _formatted(_text(form), (*values, *named.values())),
    "indent": _indented,
    "join": lambda items, d="", attribute=None: _joined(items, d),
    "replace": _replaced,
    "round": _rounded,
    "slice": _batched,
    "sum": _summed,
    "tojson": _as_json,
    "urlize": _linked,
    "wordwrap": _wrapped,
}
_METHOD_SIZES: Mapping[str, Callable[..., int]] = {
    "center": _wide,
    "expandtabs": lambda text, tabsize=8: len(text) + text.count("\t") * abs(int(tabsize)),
    "join": lambda text, items: _joined(items, text),
    "ljust": _wide,
    "replace": _replaced,
    "rjust": _wide,
    "zfill": _wide,
}
_PLAIN_METHODS = frozenset(
    "capitalize casefold count endswith find format format_map index isalnum isalpha isascii isdecimal isdigit "
    "isidentifier islower isnumeric isprintable isspace istitle isupper lower lstrip partition removeprefix "
    "removesuffix rfind rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper "
    "copy fromkeys get items keys values bit_length is_integer as_integer_ratio strftime".split()
)
# Those of a text that make no more than a few times what it holds.
_PLAIN_TEXT_METHODS = frozenset(
    "count endswith find index isalnum isalpha isascii isdecimal isdigit islower isnumeric isspace istitle isupper "
    "lower lstrip partition removeprefix removesuffix rfind rindex rpartition rsplit rstrip split splitlines "
    "startswith strip title upper".split()
)
_SCOPES = frozenset(("_loop_vars", "_block_vars"))  # what Jinja passes to every call, and Context.call takes out again
_TABLE_ATTRIBUTES = frozenset(dir({}))
_NEVER_FORMATS = frozenset((str, int, bool, float, dict, list, tuple, type(None)))
_MOST_KEPT = 4096  # pairs of a type and an attribute


def guarded(name: str, unguarded: Callable[..., Any]) -> Callable[..., Any]:
    """The filter `unguarded` of Jinja, whose result is estimated before it is made."""
    skipped = 1 if hasattr(unguarded, "jinja_pass_arg") else 0
    estimate, prints, lazy = _FILTER_SIZES.get(name), name not in _TEXTLESS_FILTERS, name in _LAZY_FILTERS

    @wraps(unguarded)  # with the mark that says whether it takes the environment first
    def checked(*args: Any, **named: Any) -> Any:
        budget()  # constants too are computed where a budget counts them
        if estimate is None and not lazy and args[skipped].__class__ is str and len(args[skipped]) <= WEIGHTLESS:
            return unguarded(*args, **named)  # nearly always: a short text makes another
        values = args[skipped:]
        if lazy and values and values[0]:
            return unguarded(
                *args[:skipped], _looked_at(values[0], (*values[1:], *named.values())), *values[1:], **named
            )
        if values and isinstance(values[0], types.GeneratorType):
            values = (list(examined(values[0], _ITEM_STEPS)), *values[1:])
        elif prints:
            for value in values[:1]:
                _check_text(value)
        elif values:
            compared(values[0])
        if estimate is not None:
            check_size(estimate(*values, **named))
        return sized(unguarded(*args[:skipped], *values, **named))

    return checked


def _looked_at(items: Iterable[Any], arguments: Iterable[Any]) -> Iterable[Any]:
    """The items of a filter that compares each with its arguments, which takes steps with each."""
    before = budget().steps
    for argument in arguments:
        compared(argument)
    return examined(items, _ITEM_STEPS + before - budget().steps)


def _check_text(value: Any) -> None:
    if isinstance(value, str):
        weighed(value)
    elif not isinstance(value, types.GeneratorType):
        check_size(text_size(value))


class BudgetSandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, in which every template has the current budget."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=printed, **options)
        self._safe_attributes: dict[tuple[type, str], bool] = {}
        self.globals.pop("lipsum")  # text by chance
        self.filters.pop("random")  # and a choice by chance: a score has to come out the same
        self.filters.update({name: guarded(name, f) for name, f in self.filters.items() if name not in _FREE_FILTERS})
        self.filters.update(FILTERS)

    def add_filter(self, name: str, unguarded: Callable[..., Any]) -> None:
        """A filter of ours in place of Jinja's."""
        self.filters[name] = guarded(name, unguarded)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return rewrite(super()._parse(source, name, filename))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute` as Jinja finds it; of a table, which messages are, its item without failing first."""
        if obj.__class__ is dict and attribute not in _TABLE_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Jinja's answer, which follows from the type and the name alone, and is kept for the next time."""
        key = (type(obj), attr)
        known = self._safe_attributes.get(key)
        if known is None:
            known = super().is_safe_attribute(obj, attr, value)
            if len(self._safe_attributes) < _MOST_KEPT:
                self._safe_attributes[key] = known
        return known

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Any call that a template makes."""
        if __obj.__class__ is types.BuiltinMethodType and _is_plain_call(__obj, args, kwargs):
            return sized(__obj(*args))
        if isinstance(__obj, types.BuiltinMethodType) or isinstance(getattr(__obj, "__self__", None), str):
            args = _items_made(__obj, args)
            _check_method(__obj, args, {name: value for name, value in kwargs.items() if name not in _SCOPES})
        elif isinstance(__obj, (Macro, LoopContext)) or not isinstance(__obj, type):
            if isinstance(__obj, LoopContext):
                args = (counted(args[0], _RECURSED_STEPS, 0), *args[1:]) if args else args
            elif not isinstance(__obj, Macro):
                compared([*args, *kwargs.values()])
            spend(_CALL_STEPS)
            with one_deeper():
                return sized(super().call(__context, __obj, *args, **kwargs))
        else:
            compared([*args, *kwargs.values()])
        return sized(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`*`, `**` and `%`, which make much of little."""
        if operator == "*":
            _check_product(left, right)
        elif operator == "**":
            _check_power(left, right)
        elif isinstance(left, str):
            values = right if isinstance(right, tuple) else (right,)
            check_size(_formatted(left, right.values() if isinstance(right, dict) else values))
        return sized(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` and `format_map`, which the sandbox replaces by its own."""
        if value.__class__ in _NEVER_FORMATS:  # nearly always
            return None
        formatted = super().wrap_str_format(value)
        if formatted is None:
            return None
        form = value.__self__

        @wraps(formatted)
        def checked(*args: Any, **named: Any) -> str:
            mapped = value.__name__ == "format_map" and isinstance(args[0], dict)
            values = args[0].values() if mapped else args
            check_size(_formatted(form, (*values, *named.values())))
            return formatted(*args, **named)

        return checked


def _is_plain_call(method: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> bool:
    """Whether a short text's method is called with short texts, which is then paid for: nearly always.

    What `_check_method` and Jinja would find out of such a call is known: it makes little and needs no context.
    """
    text, name = method.__self__, method.__name__
    if text.__class__ is not str or len(text) > WEIGHTLESS or name not in _PLAIN_TEXT_METHODS:
        return False
    if not named.keys() <= _SCOPES or not compared_texts(args):
        return False
    spend(1)
    return True


def _check_method(method: Any, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """A method of a text, also of one that is marked as safe, of a number, a list or a table."""
    estimate = _METHOD_SIZES.get(method.__name__)
    spend(1)
    (weighed if isinstance(method.__self__, str) else compared)(method.__self__)
    compared(args)
    if estimate is not None and isinstance(method.__self__, str):
        check_size(estimate(method.__self__, *args, **named))
    elif method.__name__ not in _PLAIN_METHODS:
        raise SecurityError(f"the method {method.__name__!r} is none that a chat template may call")


def _items_made(method: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of `", ".join(...)`, items that are still to be made, as filters give them, as a list."""
    if method.__name__ != "join" or not args or not isinstance(args[0], (types.GeneratorType, range)):
        return args
    return (list(counted(args[0], _ITEM_STEPS, 0)), *args[1:])


def _check_product(left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, list, tuple)) and isinstance(times, int):
            check_size(len(value) * max(0, times))
    if isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() + right.bit_length())


def _check_power(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if right < 0 and left == 0:
            raise TemplateRuntimeError("division by zero")
        check_bits(left.bit_length() * abs(right))
