"""A file that gets its name when it is complete; until then it is written beside it under a random name.

No two writers share such a random name, even on different machines or in different containers: the file is created
exclusively.
"""

import os
import secrets
from contextlib import suppress
from itertools import count
from pathlib import Path

from rmruntime.errors import OutputError

PARTIAL = ".partial"
_LONGEST = 200  # bytes of the name that the partial name repeats; file systems allow 255, and 26 are added


def partial_path(path: Path) -> Path:
    """A hidden name beside `path`, random so that no other writer has it.

    >>> path = partial_path(Path("out/scores.jsonl"))
    >>> path.parent.name, path.name.startswith(".scores.jsonl."), path.suffix
    ('out', True, '.partial')
    """
    beginning = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    return path.with_name(f".{beginning}.{secrets.token_hex(8)}{PARTIAL}")


def write_reason(error: OSError | ValueError) -> str:
    """The reason why something cannot be written, as a clause for a message.

    >>> write_reason(BrokenPipeError())
    'its reader closed the pipe'
    """
    if isinstance(error, BrokenPipeError):
        return "its reader closed the pipe"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class PendingFile:
    """A file open for writing, until `finish`, `keep` or `discard` closes it. Pipes and devices are written directly.

    >>> file = PendingFile(Path("scores.jsonl"))
    >>> file.write(b'{"score": 0.5}')
    >>> Path("scores.jsonl").exists()
    False
    >>> file.finish()
    >>> Path("scores.jsonl").read_text()
    '{"score": 0.5}'
    """

    def __init__(self, path: Path) -> None:
        """Raises OutputError when the file cannot be created."""
        # Renaming onto /dev/stdout or a named pipe would replace it by a plain file.
        self._special = os.path.exists(path) and not os.path.isfile(path)
        self.path = path if self._special else Path(os.path.realpath(path))
        self.partial = path if self._special else partial_path(self.path)
        self.settled = False
        try:
            with suppress(FileNotFoundError):
                os.lstat(self.path)  # an impossible name is found now, not when the file is complete
            # Unbuffered: what has been written is known, and closing has nothing left to write.
            self._file = self.partial.open("wb" if self._special else "xb", buffering=0)
        except OSError as error:
            raise self._failure(error) from error

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Raises OutputError; a part of the data may have been written by then."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) or 0 :]
        except OSError as error:
            raise self._failure(error) from error

    def finish(self) -> None:
        """Rename the file to its final name, once its content has reached the disk. Raises OutputError."""
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
        """Keep the first `length` bytes as NAME.partial, or NAME.partial-2 and so on; returns the path.

        None for a pipe or a device.
        """
        self._close()
        if self._special or self.settled:
            return None
        self.settled = True
        with suppress(OSError):  # else the bytes after `length` stay in it
            os.truncate(self.partial, length)
        with suppress(OSError):  # else it keeps its random name
            return self._renamed()
        return self.partial

    def discard(self) -> None:
        """Close, and remove the file unless it was finished or kept."""
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
        return OutputError(
            f"{self.path}: cannot be written ({write_reason(error)}); make room or the folder writable, or choose "
            "another place with -o"
        )
