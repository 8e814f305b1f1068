"""What rendering one conversation may cost, counted and never timed: the same template and conversation give the same
answer on every machine.

Steps are nodes of the template's syntax tree that are evaluated, and what its operations have to look through; sizes
are characters, items of a list, or bits of a number.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.runtime import LoopContext, Macro, Undefined
from jinja2.utils import Namespace

STEPS = 10_000_000  # a conversation of a hundred turns takes some 20,000
VALUE_SIZE, OUTPUT_SIZE = 1 << 23, 1 << 25  # besides a few times what the conversation itself holds
NUMBER_BITS = 4096
MAX_NESTING = 200  # of lists within lists that are compared: some comparisons of Python's own go down without a limit
MAX_DEPTH = 48  # of macros, and loops, that call themselves: far from where Python would give up
WEIGHTLESS = 4096  # characters that an operation looks through at no charge
_SCAN = 6  # bits: 64 characters looked through count as one step, as do two items
_PART_STEPS = 8  # for each item of a list that is printed
_COMPARED_STEPS = 4  # for each that is compared, or made a key
_TEXTLESS = "prints a value that has no text of its own (it would show a memory address)"
_LISTS: Any = (list, tuple, type({}.keys()), type({}.values()), type({}.items()))
_TABLES_AND_LISTS: Any = (Mapping, *_LISTS)
_NUMBERS = frozenset({int, float, bool, type(None)})  # what has nothing in it to look through
_PRINTABLE = (str, int, float, type(None), Undefined, Namespace, Macro, LoopContext, range)


class TemplateTooCostly(TemplateRuntimeError):
    """Rendering goes on for longer, or makes larger things, than any chat template has to."""


class Budget:
    """What one rendering may still cost, of a conversation of `turns` turns with `given` characters in all.

    Some templates go through all turns at every turn.
    """

    def __init__(self, given: int, turns: int) -> None:
        self.steps = self.most = STEPS + given + 50 * turns**2
        self.output = OUTPUT_SIZE + 8 * given
        self.largest = VALUE_SIZE + 4 * given
        self.depth = 0


class _Current(threading.local):
    """The budget of what this thread renders; None while a template is compiled."""

    budget: Budget | None = None


_current = _Current()


class limited:
    """A new budget for the rendering inside. Raises TemplateTooCostly where it is used up.

    A class, because entering a generator takes longer than what else this does.

    >>> with limited(given=100, turns=2):
    ...     budget().steps - STEPS
    300
    """

    def __init__(self, given: int, turns: int) -> None:
        self._budget = Budget(given, turns)

    def __enter__(self) -> None:
        _current.budget = self._budget

    def __exit__(self, *error: object) -> None:
        _current.budget = None


def budget() -> Budget:
    """This thread's budget. Raises TemplateRuntimeError while a template is compiled: it is spent in rendering.

    >>> with limited(given=0, turns=1):
    ...     budget().steps
    10000050
    """
    current = _current.budget
    if current is None:
        raise TemplateRuntimeError("nothing is rendered now")
    return current


def spend(steps: int) -> str:
    """Take steps off the budget; returns an empty text. Raises TemplateTooCostly where there are too few.

    >>> with limited(given=0, turns=1):
    ...     spend(50), budget().steps
    ('', 10000000)
    """
    left = budget()
    left.steps -= steps
    if left.steps < 0:
        raise TemplateTooCostly(f"rendering takes more than {left.most:,} steps")
    return ""


def counted(items: Iterable[Any], steps: int, printed: int) -> Iterator[Any]:
    """`items` of a loop with `steps` nodes and `printed` characters of its own in its body.

    >>> with limited(given=0, turns=0):
    ...     list(counted("ab", steps=10, printed=0)), budget().most - budget().steps
    (['a', 'b'], 20)
    """
    left = budget()
    for item in items:
        left.steps -= steps
        left.output -= printed
        if left.steps < 0 or left.output < 0:
            spend(0)
            _refuse_output(left)
        yield item


def weighed(value: Any) -> Any:
    """`value`, after taking the steps that looking through a value of its size costs.

    >>> with limited(given=0, turns=1):
    ...     weighed([1, 2, 3, 4]), budget().most - budget().steps
    ([1, 2, 3, 4], 2)
    """
    if value.__class__ is str and len(value) <= WEIGHTLESS:  # nearly always
        return value
    if isinstance(value, str):
        if len(value) > WEIGHTLESS:
            spend(len(value) >> _SCAN)
    elif isinstance(value, (list, tuple, dict, range)):
        spend(len(value) >> 1)
    return value


def compared(value: Any) -> Any:
    """`value`, which is compared with something, or made a key: everything in it takes steps.

    A list that holds itself many times over takes longer to compare than anybody waits. Raises TemplateTooCostly.

    >>> with limited(given=0, turns=1):
    ...     compared([1, 2]), budget().most - budget().steps
    ([1, 2], 12)
    """
    if value.__class__ is str and len(value) <= WEIGHTLESS:  # nearly always
        return value
    left, depth = budget(), 0
    if value.__class__ in _NUMBERS:
        return value
    level: list[Any] = [value]
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                left.steps -= len(item) >> _SCAN
            elif isinstance(item, _TABLES_AND_LISTS):
                left.steps -= _COMPARED_STEPS * (1 + len(item))
                if left.steps >= 0:
                    below += (*item.keys(), *item.values()) if isinstance(item, Mapping) else item
        spend(0)
        depth += 1
        if depth > MAX_NESTING:
            raise TemplateTooCostly(f"it compares lists that are nested more than {MAX_NESTING} deep")
        level = below
    return value


def compared_texts(texts: tuple[Any, ...]) -> bool:
    """Whether all are short texts, which are then compared: at the steps of `compared(texts)`, in much less time.

    >>> with limited(given=0, turns=0):
    ...     compared_texts(("a", "b")), budget().most - budget().steps
    (True, 12)
    """
    characters = 0
    for text in texts:
        if text.__class__ is not str or len(text) > WEIGHTLESS:
            return False
        characters += len(text) >> _SCAN
    spend(_COMPARED_STEPS * (1 + len(texts)) + characters)
    return True


def examined(items: Iterable[Any], steps: int) -> Iterator[Any]:
    """`items` that are still to be made, each of which is compared and takes `steps` steps besides.

    >>> with limited(given=0, turns=1):
    ...     list(examined("ab", 5)), budget().most - budget().steps
    (['a', 'b'], 10)
    """
    for item in items:
        spend(steps)
        yield compared(item)


def sized(value: Any) -> Any:
    """`value`, unless it is too large (TemplateTooCostly), after taking the steps that making it cost.

    >>> with limited(given=0, turns=1):
    ...     sized("a" * 10**7)
    Traceback (most recent call last):
    rmruntime.text.template_budget.TemplateTooCostly: it makes a value of 10000000 characters or items, at most ...
    """
    if value.__class__ is str and len(value) <= WEIGHTLESS:
        return value
    if isinstance(value, (str, bytes, list, tuple, dict)):
        check_size(len(value))
        return weighed(value)
    if isinstance(value, int):
        check_bits(value.bit_length())
    return value


def check_size(size: float) -> None:
    """Raises TemplateTooCostly where `size` characters or items are more than a value may have.

    >>> with limited(given=0, turns=1):
    ...     check_size(1e9)
    Traceback (most recent call last):
    rmruntime.text.template_budget.TemplateTooCostly: it makes a value of 1000000000 characters or items, at most ...
    """
    left = budget()
    if size > left.largest:
        raise TemplateTooCostly(f"it makes a value of {size:.0f} characters or items, at most {left.largest} can be")


def check_bits(bits: int) -> None:
    """Raises TemplateTooCostly where a whole number of `bits` bits is too large.

    >>> check_bits(64)
    """
    if bits > NUMBER_BITS:
        raise TemplateTooCostly(f"it computes a number of {bits} bits, at most {NUMBER_BITS} can be")


def printed(value: Any) -> Any:
    """`value`, its text's length taken off what may be printed; templates print through this.

    >>> with limited(given=0, turns=1):
    ...     printed("hello"), OUTPUT_SIZE - budget().output
    ('hello', 5)
    """
    left = _current.budget
    if left is None:
        if not isinstance(value, (str, int, float)):
            budget()  # what has a text of its own is looked for when it is printed
        return value
    left.output -= len(value) if value.__class__ is str else text_size(value)
    if left.output < 0:
        _refuse_output(left)
    return value


def _refuse_output(left: Budget) -> None:
    if left.output < 0:
        raise TemplateTooCostly(f"it prints more than {OUTPUT_SIZE:,} characters")


def text_size(value: Any) -> int:
    """About how many characters the text of `value` has, which is not made for that. Each part takes a step.

    A list that holds itself many times over has a text that no memory holds. Raises TemplateTooCostly for that, and
    SecurityError for what would print where it lies in memory.

    >>> text_size("four")
    4
    """
    if isinstance(value, str):
        return len(value)
    left = budget()
    total, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        left.steps -= _PART_STEPS
        if left.steps < 0 or total > left.largest:
            break
        total += 4
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, _LISTS):
            waiting += item
        elif isinstance(item, Namespace):
            waiting.append(_attributes(item))
        elif isinstance(item, int):
            total += item.bit_length() // 3
        elif not isinstance(item, _PRINTABLE):
            raise SecurityError(f"it {_TEXTLESS}")
    spend(0)
    check_size(total)
    return total


def _attributes(namespace: Namespace) -> dict[str, Any]:
    held: dict[str, Any] = object.__getattribute__(namespace, "_Namespace__attrs")
    return held


@contextmanager
def one_deeper() -> Iterator[None]:
    """A call of something that may call itself. Raises TemplateTooCostly for too many within one another.

    >>> with limited(given=0, turns=1), one_deeper():
    ...     budget().depth
    1
    """
    left = budget()
    if left.depth >= MAX_DEPTH:
        raise TemplateTooCostly(f"its macros call one another more than {MAX_DEPTH} deep")
    left.depth += 1
    try:
        yield
    finally:
        left.depth -= 1
