"""Runs a command: sees to its standard streams, signals and errors, and turns them into messages and exit statuses."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rmruntime.commands.stop_signals import Stopped, StopSignals, stop_message, stop_status
from rmruntime.errors import OutputError

Arguments = Sequence[str] | None
Work = Callable[[], int]
FAILED = 2


def run_command(
    prepare: Callable[[Arguments], Work], argv: Arguments, errors: tuple[type[Exception], ...], stops: StopSignals
) -> int:
    """Run a command and return its exit status. `prepare` reads arguments and imports; it returns the work to do.

    With `argv` None this is the process's own command, and its standard streams are set up and closed properly.
    `errors` have a message for the user, which is printed: they end in status 2, as do errors of the system; signals
    end in 128 and their number.

    >>> run_command(lambda argv: lambda: 0, [], (ValueError,), StopSignals())
    0
    """
    if argv is None:
        _hold_streams()
    status = _status(prepare, argv, errors, stops)
    if argv is None:
        _drain(sys.stdout)
        _drain(sys.stderr)
        if stops.received is not None:
            os._exit(status)  # after an interruption, an orderly end of the process could fail or hang
    return status


class CommandParser(argparse.ArgumentParser):
    """An ArgumentParser that reports where its messages could not be written, which argparse ignores."""

    def _print_message(self, message: str, file: Any = None) -> None:
        (say if file is sys.stdout else note)(message.removesuffix("\n"))


def say(line: str) -> None:
    """Print a line of a command's result to standard output. Raises OutputError.

    >>> say("3 records")
    3 records
    """
    with output_reported():
        if sys.stdout is not None:
            print(_printable(line, sys.stdout), file=sys.stdout)  # noqa: T201 # the command line's own output


def note(line: str) -> None:
    """Print a line to standard error; nothing happens where that cannot be written to."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(_printable(line, sys.stderr), file=sys.stderr, flush=True)  # noqa: T201 # the command line's own output


@contextmanager
def output_reported() -> Iterator[None]:
    """A context that turns failures of standard output into OutputError.

    >>> with output_reported():
    ...     raise BrokenPipeError
    Traceback (most recent call last):
    rmruntime.errors.OutputError: standard output: its reader closed the pipe before everything was written...
    """
    try:
        yield
    except BrokenPipeError as error:
        raise OutputError(
            "standard output: its reader closed the pipe before everything was written; have it read to the end"
        ) from error
    except OSError as error:
        raise OutputError(
            f"standard output: cannot be written ({error.strerror}); write to another file or disk"
        ) from error


def _status(
    prepare: Callable[[Arguments], Work], argv: Arguments, errors: tuple[type[Exception], ...], stops: StopSignals
) -> int:
    try:
        return _worked(prepare, argv, stops)
    except errors as error:
        return _stopped(stops.received, "") if stops.received else _failed(str(error))
    except KeyboardInterrupt as error:
        return _stopped(error.number if isinstance(error, Stopped) else stops.received or signal.SIGINT, str(error))
    except OSError as error:  # a failure of the system that no code expected
        named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _failed(f"{named}{error.strerror or error}")
    except UnicodeError as error:
        return _failed(f"found a path or text that is not Unicode ({error}); rename the file, or move it")
    except MemoryError:
        return _failed("out of memory; free some, or use a machine with more")
    except Exception as error:
        if stops.received is None:
            raise
        return _stopped(stops.received, str(error.__notes__[0]) if hasattr(error, "__notes__") else "")


def _worked(prepare: Callable[[Arguments], Work], argv: Arguments, stops: StopSignals) -> int:
    try:
        work = prepare(argv)
        stops.working = True
        status = work()
        _flush()
        return status
    except SystemExit as ended:  # --help, --version and wrong arguments
        _flush()
        if argv is None and isinstance(ended.code, int):
            return ended.code
        raise
    finally:
        stops.working = False


def _flush() -> None:
    with output_reported():
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()


def _failed(message: str) -> int:
    note(f"error: {message}")
    return FAILED


def _stopped(number: int, kept: str) -> int:
    note(stop_message(number) + (f"; {kept}" if kept else "; nothing half-written was left"))
    return stop_status(number)


def _printable(line: str, stream: TextIO) -> str:
    """`line` with escapes for what the stream cannot encode: undecodable bytes of file names, and some characters."""
    encoding = stream.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _hold_streams() -> None:
    """Take the file descriptors of closed standard streams; else the next file that is opened would get one of them.

    Standard input and output still fail when they are used; what is written to standard error is dropped.
    """
    for number, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)
    sys.stdin = sys.stdin or os.fdopen(0, "r", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _drain(stream: TextIO | None) -> None:
    """Flush `stream`, or drop what it cannot write: Python would try again when it ends, and print a traceback."""
    if stream is None or stream.closed:
        return
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()
