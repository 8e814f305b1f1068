"""What must not stop half-way: two renames, or a library that loses what its callbacks raise."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Interruption:
    """`requested` once Ctrl-C was pressed."""

    requested: bool = False


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """Ctrl-C inside the block sets `requested`, and raises KeyboardInterrupt where the block ends, in whatever way.

    Other threads than the main one get none, nor does a process that ignores it.
    """
    interruption, before = Interruption(), signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield interruption
        return

    def request(number: int, frame: FrameType | None) -> None:
        interruption.requested = True

    signal.signal(signal.SIGINT, request)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, before)
        if interruption.requested:
            raise KeyboardInterrupt
