"""What must not stop half-way: two renames, or a library that loses what its callbacks raise."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rmruntime.commands.stop_signals import SIGNALS


@dataclass
class Interruption:
    """`requested` is the first signal that came, once one has: Ctrl-C, or what else ends a command."""

    requested: int | None = None


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """A signal inside the block sets `requested`, and has its effect where the block ends, in whatever way.

    Of Ctrl-C that is KeyboardInterrupt. Other threads than the main one get none; a signal that is ignored, or that
    ends the process without a word, is left as it is.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return

    def request(number: int, frame: FrameType | None) -> None:
        interruption.requested = interruption.requested or number

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    deferred = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in deferred:
        signal.signal(number, request)
    try:
        yield interruption
    finally:
        for number, handler in deferred.items():
            signal.signal(number, handler)
        if interruption.requested is not None:
            signal.raise_signal(interruption.requested)
