"""Progress bars on stderr: none when it is not a terminal, none for short work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from tqdm import tqdm

from rmexport.output.staging_folder import Notify, ignore
from rmruntime.commands.progress_bars import DELAY

Advance = Callable[[int], object]
Bars = Callable[[str, int, str], AbstractContextManager[Advance]]


@contextmanager
def byte_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of bytes with rate and time left; call it with (done, total).

    Bytes that are done at the first call do not count for the rate and the time left.

    >>> with byte_bar("weights") as show:  # on a terminal: "weights: 40% ... 400/1000 [...]"
    ...     show(400, 1000)
    """
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=description, disable=None, delay=DELAY) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.initial = bar.n = bar.last_print_n = done
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextmanager
def count_bar(description: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar of `total` items, such as conversations; call it with how many more are done.

    >>> with count_bar("scoring", total=256, unit="conversations") as advance:
    ...     _ = advance(32)
    """
    with tqdm(total=total, unit=f" {unit}", desc=description, disable=None, delay=DELAY) as bar:
        yield bar.update


def no_bar(description: str, total: int, unit: str) -> AbstractContextManager[Advance]:
    """A `count_bar` that shows nothing.

    >>> with no_bar("scoring", total=256, unit="conversations") as advance:
    ...     advance(32)
    """
    return nullcontext(lambda count: None)


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """How a long piece of work reports its progress: lines to `notify`, counts to `bars`; `clock` returns seconds."""

    notify: Notify = ignore
    bars: Bars = no_bar
    clock: Callable[[], float] = time.perf_counter


def notify(line: str) -> None:
    """Print a line to stderr, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stderr)
