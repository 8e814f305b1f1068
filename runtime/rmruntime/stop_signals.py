"""Ctrl-C and the signals that end a process, as an exception while a command works and as an end before and after.

Python turns Ctrl-C into an exception wherever it happens to be. In the middle of an import, or at the end of the
process, nobody catches that; there is nothing to clean up either, so there the process ends at once.
"""

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OWN = (signal.SIG_DFL, signal.default_int_handler)  # others, such as "ignore", were chosen by who started us


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """What the signals do in this process. `received` is the first that came while the command worked."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._working = False

    def heed(self) -> None:
        """From now on; not in a thread, whose process is another's."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            if signal.getsignal(number) in _OWN:
                signal.signal(number, self._handle)
        sys.unraisablehook = self._unraisable

    @contextmanager
    def working(self) -> Iterator[None]:
        """Inside the block they raise Stopped, so that it can clean up."""
        self._working = True
        try:
            yield
        finally:
            self._working = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._working:
            self.received = self.received or number
            raise Stopped(number)
        os.write(2, f"{stop_word(number)}\n".encode())
        os._exit(stop_status(number))

    def _unraisable(self, report: Any) -> None:
        """An exception that Python cannot raise where it came up, and would print and forget: it is raised again."""
        if isinstance(report.exc_value, Stopped):
            _thread.interrupt_main(signal.Signals(report.exc_value.number))
        else:
            sys.__unraisablehook__(report)


def stop_word(number: int) -> str:
    """What the user is told."""
    return "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"


def stop_status(number: int) -> int:
    """The exit status, as shells have it: 130 for Ctrl-C."""
    return 128 + number
