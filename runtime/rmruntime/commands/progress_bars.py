"""Progress bars on stderr: none when it is not a terminal, none for short work.

A bar starts with the first call, so that the time before it, such as loading, does not distort the rate and the time
left.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm

DELAY = 1.0  # seconds before a bar shows


@contextmanager
def sequence_bar() -> Iterator[Callable[[int], None]]:
    """A bar for an unknown number of sequences; call it with how many more are scored.

    >>> with sequence_bar() as advance:  # on a terminal: "scoring: 32 seq [00:02, ...]"
    ...     advance(32)
    """
    bars: list[tqdm[None]] = []
    with ExitStack() as stack:

        def advance(count: int) -> None:
            if not bars:
                bars.append(stack.enter_context(tqdm(unit=" seq", desc="scoring", disable=None, delay=DELAY)))
            bars[0].update(count)

        yield advance


@contextmanager
def record_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar for records; call it with (done, total). Records done at the first call count as an earlier run's.

    >>> with record_bar() as show:  # on a terminal: "scoring: 40% ... 40/100 [...]"
    ...     show(0, 100)
    ...     show(40, 100)
    """
    bars: list[tqdm[None]] = []
    with ExitStack() as stack:

        def show(done: int, total: int) -> None:
            if not bars:
                bar = tqdm(unit=" records", desc="scoring", total=total, initial=done, disable=None, delay=DELAY)
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].n)

        yield show
