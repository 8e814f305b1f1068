"""Handles Ctrl-C and the signals that end a process: while a command works they raise, at other times they end it.

Python turns Ctrl-C into an exception at any point. In the middle of an import, or at the end of the process, nothing
catches it, and there is nothing to clean up either. This module imports only modules that Python has loaded by then, so
that the handlers are installed early: before that, Ctrl-C prints a traceback.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # the C part of `signal`, which takes time to import
import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

NAMES = {_signal.SIGINT: "SIGINT", _signal.SIGTERM: "SIGTERM", _signal.SIGHUP: "SIGHUP"}
SIGNALS = tuple(NAMES)
_OWN = (_signal.SIG_DFL, _signal.default_int_handler)  # others, such as "ignore", were chosen by the parent process


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """The handlers of this process's stop signals. `received` is the first signal that came while `working` was true.

    While the command works, signals raise Stopped, so that it can clean up.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.working = False

    def install(self) -> None:
        """Handle the signals from now on; does nothing outside the main thread, where Python allows no handlers."""
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
        os.write(2, f"{stop_message(number)}\n".encode())
        os._exit(stop_status(number))

    def _unraisable(self, report: Any) -> None:
        """Raises a Stopped again that came up where Python cannot raise it, such as in a destructor."""
        if isinstance(report.exc_value, Stopped):
            _thread.interrupt_main(report.exc_value.number)  # type: ignore[arg-type] # a plain number does
        else:
            sys.__unraisablehook__(report)


def stop_message(number: int) -> str:
    """The message for the user.

    >>> stop_message(_signal.SIGINT), stop_message(_signal.SIGTERM)
    ('interrupted', 'ended by SIGTERM')
    """
    return "interrupted" if number == _signal.SIGINT else f"ended by {NAMES.get(number, number)}"


def stop_status(number: int) -> int:
    """The exit status, 128 and the signal's number, as shells have it.

    >>> stop_status(_signal.SIGINT)
    130
    """
    return 128 + number


def install_stop_signals(argv: object) -> StopSignals:
    """The signal handlers, installed where `argv` is None.

    A command that is given its arguments runs inside another program, whose handlers stay.

    >>> install_stop_signals(["score"]).received is None
    True
    """
    stops = StopSignals()
    if argv is None:
        stops.install()
    return stops
