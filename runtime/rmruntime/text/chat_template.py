"""Renders messages through a checkpoint's own Jinja chat template, as transformers' apply_chat_template does.

The environment is the one of `transformers/utils/chat_template_utils.py` (5.x): immutable sandbox, trimmed blocks,
loop controls, the `generation` tag, and `tojson` that does not escape HTML. The clock differs: it is pinned, because a
reward that changes overnight is not a measurement; nothing is left to chance, for the same reason; and what rendering
may cost is bounded (`rmruntime.text.template_budget`), because templates come with checkpoints and bundles of
strangers.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.utils import Namespace

from rmruntime.errors import BundleError, InputError
from rmruntime.text.template_budget import limited
from rmruntime.text.template_sandbox import BudgetSandbox

# What evaluating a template may raise besides its own errors: it computes with the user's data.
_EVALUATION_ERRORS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    NameError,
    RuntimeError,
)
# What compiling one may raise: Jinja writes Python of it, which has limits of its own.
_COMPILE_ERRORS = (*_EVALUATION_ERRORS, SyntaxError)
SOURCE_LIMIT = 1 << 20  # characters; the longest published ones have some 20,000


class ChatTemplate:
    """One compiled template; rendering is safe from several threads.

    `variables` are the special tokens the template may name (`bos_token`, ...). `pinned_date` (ISO) is what
    `strftime_now` formats; a template that reads the clock without one cannot render.
    Raises BundleError for a template that does not compile or a date that is none.
    """

    def __init__(self, source: str, variables: Mapping[str, str], pinned_date: str | None) -> None:
        self._template = _compile(source, pinned_date)
        self._variables = dict(variables)

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = False,
        values: Mapping[str, str] | None = None,
    ) -> str:
        """The text of `messages`, each with role and content; `values` are further names the template may use.

        Raises InputError with the template's own message when it refuses them.
        """
        turns = [dict(message) for message in messages]
        more = self._variables if values is None else {**self._variables, **values}
        given = sum([len(text) for turn in turns for text in turn.values()])
        try:
            with limited(given, len(turns)):
                text = self._template.render(
                    messages=turns, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **more
                )
        except _EVALUATION_ERRORS as error:
            why = str(error) or type(error).__name__
            raise InputError(f"the chat template refuses these messages: {why}") from error
        if not _is_unicode(text):
            raise InputError("the chat template writes half a character (a lone surrogate), which no tokenizer takes")
        return text


@lru_cache(maxsize=32)
def _compile(source: str, pinned_date: str | None) -> jinja2.Template:
    clock = _pinned_clock(pinned_date)
    if len(source) > SOURCE_LIMIT:
        raise BundleError(f"the chat template has {len(source):,} characters, expected at most {SOURCE_LIMIT:,}")
    try:
        template = _environment().from_string(source, globals={"strftime_now": clock})
    except _COMPILE_ERRORS as error:
        why = str(error) or type(error).__name__
        raise BundleError(f"the chat template does not compile ({why}); export the bundle again") from error
    template.globals = dict(template.globals)  # a chain of two, which every rendering would copy item by item
    return template


def _environment() -> BudgetSandbox:
    environment = BudgetSandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    environment.add_filter("tojson", _to_json)
    environment.globals.update(raise_exception=_raise_exception, dict=_TemplateDict(), namespace=_TemplateNamespace)
    return environment


def _pinned_clock(pinned_date: str | None) -> Callable[[str], str]:
    if pinned_date is None:
        return _no_clock
    try:
        return datetime.fromisoformat(pinned_date).strftime
    except ValueError as error:
        raise BundleError(
            f"format.pinned_date: found {pinned_date!r}, expected an ISO date such as 2024-07-26"
        ) from error


def _no_clock(_format: str) -> NoReturn:
    raise jinja2.TemplateError("it reads the clock, and the bundle pins no date; export again with a pinned date")


def _is_unicode(text: str) -> bool:
    """Whether it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}` marks what the assistant wrote; here it only groups."""

    tags = frozenset({"generation"})  # type: ignore[assignment] # typed as a mutable set

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _TemplateDict:
    """`dict` for templates, without the attributes of the built-in type."""

    def __call__(self, *items: Any, **named: Any) -> dict[Any, Any]:
        return dict(*items, **named)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _TemplateNamespace(Namespace):
    """`namespace` for templates; names that begin with an underscore reach Python's internals."""

    def __init__(*items: Any, **named: Any) -> None:  # `self` is a name a template may use
        attributes = dict(*items[1:], **named)
        for name in attributes:
            _refuse_internal(name)
        Namespace.__init__(items[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_internal(name)
        super().__setitem__(name, value)


def _refuse_internal(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a template may not store the attribute {name!r}")
