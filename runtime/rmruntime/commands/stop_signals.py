"""Ctrl-C and the signals that end a process: an exception while a command works, an end at once before and after.

Python turns Ctrl-C into an exception wherever it happens to be. In the middle of an import, or at the end of the
process, nobody catches that; there is nothing to clean up either. This module imports only what Python itself has
imported by then: until `heed` has run, Ctrl-C prints a traceback.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # what signal is made of: that takes time to import
import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

NAMES = {_signal.SIGINT: "SIGINT", _signal.SIGTERM: "SIGTERM", _signal.SIGHUP: "SIGHUP"}
SIGNALS = tuple(NAMES)
_OWN = (_signal.SIG_DFL, _signal.default_int_handler)  # others, such as "ignore", were chosen by who started us


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """What the signals do in this process. `received` is the first that came while the command was `working`.

    While it is, they raise Stopped, so that it can clean up.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.working = False

    def heed(self) -> None:
        """From now on; not in a thread, whose process is another's."""
        try:
            for number in SIGNALS:
                if _signal.getsignal(number) in _OWN:
                    _signal.signal(number, self._handle)
        except ValueError:  # not the main thread
            return
        sys.unraisablehook = self._unraisable

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.working:
            self.received = self.received or number
            raise Stopped(number)
        os.write(2, f"{stop_word(number)}\n".encode())
        os._exit(stop_status(number))

    def _unraisable(self, report: Any) -> None:
        """An exception that Python cannot raise where it came up, and would print and forget: it is raised again."""
        if isinstance(report.exc_value, Stopped):
            _thread.interrupt_main(report.exc_value.number)  # type: ignore[arg-type] # a plain number does
        else:
            sys.__unraisablehook__(report)


def stop_word(number: int) -> str:
    """What the user is told."""
    return "interrupted" if number == _signal.SIGINT else f"ended by {NAMES.get(number, number)}"


def stop_status(number: int) -> int:
    """The exit status, as shells have it: 130 for Ctrl-C."""
    return 128 + number


def heeded(argv: object) -> StopSignals:
    """What the signals do from now on. A command that is given its arguments is no process of its own: as before."""
    stops = StopSignals()
    if argv is None:
        stops.heed()
    return stops
