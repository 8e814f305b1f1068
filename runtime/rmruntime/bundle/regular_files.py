"""Opens files whose names cannot be trusted: regular files only, because a pipe may hang and a device may never end.

The kind of file is checked before opening it, because opening a device may have an effect, and again afterwards,
because the name may belong to another file by then.
"""

import errno
import os
import stat
from io import FileIO
from pathlib import Path

# Do not wait for a pipe's other end, and do not make a terminal this process's own; Windows has neither flag.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
_FLAGS |= getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> FileIO:
    """The file, open for reading without a buffer. Raises OSError, also for anything but a regular file.

    >>> _ = Path("three").write_bytes(b"abc")
    >>> with open_regular(Path("three")) as file:
    ...     file.read()
    b'abc'
    """
    _check(path, os.stat(path).st_mode)
    descriptor = os.open(path, _FLAGS)
    try:
        _check(path, os.fstat(descriptor).st_mode)
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a file of at most `limit` bytes. Raises OSError, also for a larger file, which is then not read.

    At most `limit` bytes are read, even where the file grows meanwhile.

    >>> _ = Path("three").write_bytes(b"abc")
    >>> read_regular(Path("three"), limit=3)
    b'abc'
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, expected at most {limit:,}", str(path))
        blocks, left = [], limit
        while left and (block := file.read(min(left, max(1, size)))):
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)


def is_inside(path: Path, folder: Path) -> bool:
    """Whether `path`, with links resolved, is in `folder`.

    >>> is_inside(Path("bundle/model.onnx"), Path("bundle")), is_inside(Path("bundle/../other"), Path("bundle"))
    (True, False)
    """
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, expected a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device, expected a regular file", str(path))
