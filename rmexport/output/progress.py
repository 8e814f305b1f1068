"""Progress bars on stderr: none when it is no terminal, none for short work."""

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
def count_bar(description: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar of things; call it with how many more are done."""
    with tqdm(total=total, unit=f" {unit}", desc=description, disable=None, delay=DELAY) as bar:
        yield bar.update


def no_bar(description: str, total: int, unit: str) -> AbstractContextManager[Advance]:
    """For those who do not watch; as `count_bar`."""
    return nullcontext(lambda count: None)


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Who follows a long piece of work: told lines by `notify`, shown counts by `bars`, timed by `clock` in seconds."""

    notify: Notify = ignore
    bars: Bars = no_bar
    clock: Callable[[], float] = time.perf_counter


def notify(line: str) -> None:
    """A line on stderr that does not run into a bar."""
    tqdm.write(line, file=sys.stderr)
