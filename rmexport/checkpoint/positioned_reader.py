"""Reads bytes of a folder's files directly into the caller's memory, from several threads, without memory maps."""

import os
import threading
import weakref
from pathlib import Path

import numpy as np

from rmexport.checkpoint.tensors import Array
from rmexport.errors import CheckpointError


class PositionedReader:
    """Reads the files of `folder`, each opened once. Nothing is mapped, so that it does not count as process memory.

    >>> import numpy as np
    >>> _ = Path("data").write_bytes(b"abcdef")
    >>> out = np.zeros(2, np.uint8)
    >>> PositionedReader(Path()).read("data", 2, out)
    >>> out.tobytes()
    b'cd'
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._descriptors)

    def read(self, file: str, at: int, out: Array) -> None:
        """Fill `out` with bytes of `file` from the byte `at` on. Raises CheckpointError when they cannot be read."""
        target = out.view(np.uint8).data
        try:
            descriptor = self._descriptor(file)
            while target:
                count = os.preadv(descriptor, [target], at)
                if not count:
                    raise CheckpointError(
                        f"{self._folder / file} became shorter while it was read; "
                        "let its writer finish, or download it again"
                    )
                target, at = target[count:], at + count
        except OSError as error:
            raise CheckpointError(
                f"{self._folder / file} cannot be read: {error.strerror}; see to its permissions or disk"
            ) from error

    def _descriptor(self, file: str) -> int:
        with self._lock:
            if file not in self._descriptors:
                descriptor = os.open(self._folder / file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
                self._descriptors[file] = descriptor
            return self._descriptors[file]


def _close_all(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
