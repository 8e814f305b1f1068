"""Defers Ctrl-C and other stop signals while something runs that must not be interrupted, such as two renames."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from rmruntime.commands.stop_signals import SIGNALS


@dataclass
class Interruption:
    """`requested` is the first stop signal that came, such as Ctrl-C; None until then."""

    requested: int | None = None


@contextmanager
def deferred_interrupt() -> Iterator[Interruption]:
    """A context in which stop signals only set `requested`; they take effect when it ends, however it ends.

    Ctrl-C then raises KeyboardInterrupt. Only the main thread gets signals. Signals that are ignored, or that have no
    handler and end the process, are not deferred.

    >>> with deferred_interrupt() as interruption:
    ...     interruption.requested is None
    True
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
