"""A file that gets its name when it is complete; until then it is written beside it under a random one.

No two writers ever share such a name: it is made exclusively, on whatever machine or in whatever container they run.
"""

import os
import secrets
from contextlib import suppress
from itertools import count
from pathlib import Path

from rmruntime.errors import OutputError

PARTIAL = ".partial"
_LONGEST = 200  # bytes of the name that its partial one repeats: there is room for what is added


def partial_path(path: Path) -> Path:
    """A hidden name beside `path` that nobody else has.

    >>> path = partial_path(Path("out/scores.jsonl"))
    >>> path.parent.name, path.name.startswith(".scores.jsonl."), path.suffix
    ('out', True, '.partial')
    """
    beginning = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    return path.with_name(f".{beginning}.{secrets.token_hex(8)}{PARTIAL}")


def write_reason(error: OSError | ValueError) -> str:
    """Why something cannot be written, for a message.

    >>> write_reason(BrokenPipeError())
    'its reader closed the pipe'
    """
    if isinstance(error, BrokenPipeError):
        return "its reader closed the pipe"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class PendingFile:
    """Open from the start; closed by `finish`, `keep` or `discard`. Pipes and devices are written to as they are."""

    def __init__(self, path: Path) -> None:
        """Raises OutputError when it cannot be made."""
        # Renaming onto /dev/stdout or a named pipe would replace it by a plain file.
        self._special = os.path.exists(path) and not os.path.isfile(path)
        self.path = path if self._special else Path(os.path.realpath(path))
        self.partial = path if self._special else partial_path(self.path)
        self.settled = False
        try:
            with suppress(FileNotFoundError):
                os.lstat(self.path)  # a name that cannot be is found out now, not when the file is complete
            # Unbuffered: what has been written is known, and closing has nothing left to write.
            self._file = self.partial.open("wb" if self._special else "xb", buffering=0)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, data: bytes | memoryview) -> None:
        """Append. Raises OutputError, after a part of the data may have been written."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise self._failure(error) from error

    def finish(self) -> None:
        """Give the file its name once it has reached the disk. Raises OutputError."""
        if self.settled:
            return
        try:
            if not self._special:
                os.fsync(self._file.fileno())
            self._file.close()
            if not self._special:
                self.partial.replace(self.path)
        except OSError as error:
            raise self._failure(error) from error
        self.settled = True

    def keep(self, length: int) -> Path | None:
        """Keep the first `length` bytes under a name that no file has, and give it; None for a pipe or a device."""
        self._close()
        if self._special or self.settled:
            return None
        self.settled = True
        with suppress(OSError):  # then the rest stays in the file
            os.truncate(self.partial, length)
        with suppress(OSError):  # then it stays where it is
            return self._renamed()
        return self.partial

    def discard(self) -> None:
        """Remove what was neither finished nor kept."""
        self._close()
        if not self._special and not self.settled:
            self.settled = True
            with suppress(OSError):
                self.partial.unlink(missing_ok=True)

    def _renamed(self) -> Path:
        for number in count(1):
            name = self.path.with_name(f"{self.path.name}{PARTIAL}{'' if number == 1 else f'-{number}'}")
            with suppress(FileExistsError):
                name.touch(exist_ok=False)
                return self.partial.replace(name)
        raise AssertionError  # there is always a number that is free

    def _close(self) -> None:
        with suppress(OSError):  # nothing is buffered
            self._file.close()

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path}: cannot be written ({write_reason(error)})")
