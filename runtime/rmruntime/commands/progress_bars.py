"""Progress bars on stderr: none when it is no terminal, none for short work.

A bar begins with the first call, so that what comes before it, such as loading, counts neither for the rate nor for
the time left.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from tqdm import tqdm

DELAY = 1.0  # seconds before a bar shows


@contextmanager
def sequence_bar() -> Iterator[Callable[[int], None]]:
    """A bar of sequences whose number nobody knows; call it with how many more are scored."""
    bars: list[tqdm[None]] = []
    with ExitStack() as stack:

        def advance(count: int) -> None:
            if not bars:
                bars.append(stack.enter_context(tqdm(unit=" seq", desc="scoring", disable=None, delay=DELAY)))
            bars[0].update(count)

        yield advance


@contextmanager
def record_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar of records; call it with (done, total). What is done at the first call was done by an earlier run."""
    bars: list[tqdm[None]] = []
    with ExitStack() as stack:

        def show(done: int, total: int) -> None:
            if not bars:
                bar = tqdm(unit=" records", desc="scoring", total=total, initial=done, disable=None, delay=DELAY)
                bars.append(stack.enter_context(bar))
            bars[0].update(done - bars[0].n)

        yield show
