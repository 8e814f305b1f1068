"""Progress bars on stderr: none when it is no terminal, none for short work."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

DELAY = 1.0  # seconds before a bar shows


@contextmanager
def byte_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes with rate and time left; call it with (done, total).

    What is done already at the first call counts neither for the rate nor for the time left.
    """
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=description, disable=None, delay=DELAY) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.initial = bar.n = bar.last_print_n = done
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextmanager
def count_bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
    """A bar of things; call it with how many more are done."""
    with tqdm(total=total, unit=f" {unit}", desc=description, disable=None, delay=DELAY) as bar:
        yield bar.update


def notify(line: str) -> None:
    """A line on stderr that does not run into a bar."""
    tqdm.write(line, file=sys.stderr)
