"""What commands have in common around their work: standard streams, signals, errors and exit statuses."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rmruntime.commands.stop_signals import Stopped, StopSignals, stop_status, stop_word
from rmruntime.errors import OutputError

Arguments = Sequence[str] | None
Work = Callable[[], int]
FAILED = 2


def run_command(
    prepare: Callable[[Arguments], Work], argv: Arguments, errors: tuple[type[Exception], ...], stops: StopSignals
) -> int:
    """The exit status of a command. `prepare` reads arguments and imports; what it gives does the work.

    With `argv` None this is the process's own command: its standard streams are then seen to. `errors` are those that
    have a message for the user: they give status 2, as does what the system refuses; signals give 128 and more.
    """
    if argv is None:
        _hold_streams()
    status = _status(prepare, argv, errors, stops)
    if argv is None:
        _drain(sys.stdout)
        _drain(sys.stderr)
        if stops.received is not None:
            os._exit(status)  # what was interrupted may be in no state to be torn down in order
    return status


class CommandParser(argparse.ArgumentParser):
    """Says what argparse passes over: that its words could not be written."""

    def _print_message(self, message: str, file: Any = None) -> None:
        (say if file is sys.stdout else note)(message.removesuffix("\n"))


def say(line: str) -> None:
    """Print a line of a command's result. Raises OutputError."""
    with output_reported():
        if sys.stdout is not None:
            print(_printable(line, sys.stdout), file=sys.stdout)  # noqa: T201 # the command line's own output


def note(line: str) -> None:
    """Print a line to standard error, where that can be written to."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            print(_printable(line, sys.stderr), file=sys.stderr, flush=True)  # noqa: T201 # as above


@contextmanager
def output_reported() -> Iterator[None]:
    """A failure of standard output as an OutputError."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputError("standard output: its reader closed the pipe before everything was written") from error
    except OSError as error:
        raise OutputError(f"standard output: cannot be written ({error.strerror})") from error


def _status(
    prepare: Callable[[Arguments], Work], argv: Arguments, errors: tuple[type[Exception], ...], stops: StopSignals
) -> int:
    try:
        return _worked(prepare, argv, stops)
    except errors as error:
        return _stopped(stops.received, "") if stops.received else _failed(str(error))
    except KeyboardInterrupt as error:
        return _stopped(error.number if isinstance(error, Stopped) else stops.received or signal.SIGINT, str(error))
    except OSError as error:  # the system refused something that nobody counted on
        named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _failed(f"{named}{error.strerror or error}")
    except UnicodeError as error:
        return _failed(f"found a path or text that is no Unicode ({error}); rename the file, or move it")
    except MemoryError:
        return _failed("out of memory")
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
    note(stop_word(number) + (f"; {kept}" if kept else "; nothing half-written was left"))
    return stop_status(number)


def _printable(line: str, stream: TextIO) -> str:
    """Bytes of file names that are no text, and characters that the stream's encoding lacks, as escapes."""
    encoding = stream.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _hold_streams() -> None:
    """Where a standard stream is closed, its number is taken: the next file to be opened would get it otherwise.

    Reading and writing fail as they did; only what is written to standard error is passed over.
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
    """What could not be written must not be tried once more when Python ends, which tells it in its own way."""
    if stream is None or stream.closed:
        return
    try:
        stream.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            stream.flush()
