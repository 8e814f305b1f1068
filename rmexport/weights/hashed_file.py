"""Writes a file through a few reused buffers while another thread takes its sha256."""

import errno
import hashlib
import os
import queue
import stat
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rmexport.errors import WriteError

_BUFFERS = 4
_WRITEBACK = 64 << 20  # bytes after which the system is told to begin to write, so that `sync` has little left to do


class HashedFile:
    """A new file, written front to back. Hashing is most of the work, so it has a thread of its own.

    Once complete it is read-only: engines map weights into memory, and whoever writes into them changes scores.

    With `path` None nothing is written and only the hash is taken.
    """

    def __init__(self, path: Path | None, buffer_bytes: int) -> None:
        """Raises WriteError when the file cannot be made."""
        self._path = path
        self._descriptor = None if path is None else _create(path)
        self._at = self._begun = 0  # bytes written, and bytes whose way to the disk has begun
        self._hash = hashlib.sha256()
        self._free: queue.SimpleQueue[NDArray[np.uint8]] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[tuple[NDArray[np.uint8], int] | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(np.empty(buffer_bytes, np.uint8))
        self._thread = threading.Thread(target=self._take_hash, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._written.put(None)
        self._thread.join()
        if self._descriptor is None or self._path is None:
            return
        try:
            if error is None:
                read_only(self._descriptor)
            os.close(self._descriptor)
        except OSError as fault:  # where network file systems report a full disk
            if error is None:
                raise write_error(self._path, fault) from fault

    def buffer(self) -> NDArray[np.uint8]:
        """An unused buffer to fill and hand to `write`; waits for the hash when it lags behind."""
        return self._free.get()

    def write(self, buffer: NDArray[np.uint8], count: int) -> None:
        """Append the first `count` bytes of a buffer got from `buffer`. Raises WriteError."""
        if self._descriptor is not None and self._path is not None:
            _write_all(self._descriptor, buffer.data[:count], self._path)
            self._begin_writeback(self._descriptor, count)
        self._written.put((buffer, count))

    def write_bytes(self, data: bytes) -> None:
        """Append some bytes. Raises WriteError."""
        rest = np.frombuffer(data, np.uint8)
        while rest.size:
            buffer = self.buffer()
            count = min(buffer.size, rest.size)
            buffer[:count] = rest[:count]
            self.write(buffer, count)
            rest = rest[count:]

    def sha256(self) -> str:
        """The hash of everything written so far, as hexadecimal digits; nothing may be written after."""
        self._written.put(None)
        self._thread.join()
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Wait until everything written has reached the disk. Raises WriteError."""
        if self._descriptor is not None and self._path is not None:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise write_error(self._path, error) from error

    def _begin_writeback(self, descriptor: int, count: int) -> None:
        """Linux starts to write dirty pages that it is told are not needed, and drops them once they are clean."""
        self._at += count
        if self._at - self._begun >= _WRITEBACK:
            os.posix_fadvise(descriptor, self._begun, self._at - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self._at

    def _take_hash(self) -> None:
        while (item := self._written.get()) is not None:
            buffer, count = item
            self._hash.update(buffer.data[:count])
            self._free.put(buffer)


def read_only(descriptor: int) -> None:
    """Takes everybody's right to write from a file of the bundle's own. Where a file system has no rights, nothing."""
    with suppress(PermissionError, NotImplementedError):
        os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o444)


def _create(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise write_error(path, error) from error


def _write_all(descriptor: int, data: memoryview, path: Path) -> None:
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> WriteError:
    """A full disk and everything else that can go wrong with a file, in words.

    >>> write_error(Path("model.safetensors"), OSError(errno.EACCES, "Permission denied"))
    WriteError('model.safetensors cannot be written: Permission denied')
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return WriteError(
            f"the disk became full while {path} was written; free some space and run the same command again, or choose "
            "another target"
        )
    return WriteError(f"{path} cannot be written: {error.strerror}")
