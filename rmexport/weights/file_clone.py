"""Puts whole files of the checkpoint into the bundle without reading them: hard links, and copies that share blocks."""

import errno
import fcntl
import os
from pathlib import Path

from rmexport.errors import WriteError
from rmexport.weights.hashed_file import read_only, write_error

_FICLONE = 0x40049409  # ioctl of btrfs, XFS, bcachefs, overlay and network file systems on these
_NO_REFLINK = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)


def link(source: Path, target: Path) -> None:
    """Hard-link `target` to the file that `source` is, or points to. Raises WriteError where that is impossible.

    >>> _ = Path("model.safetensors").write_bytes(b"weights")
    >>> link(Path("model.safetensors"), Path("bundle", "model.safetensors"))
    >>> Path("bundle", "model.safetensors").samefile("model.safetensors")
    True
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source.resolve(), target)
    except OSError as error:
        other_disk = error.errno == errno.EXDEV
        reason = f"{target.parent} lies on another file system" if other_disk else error.strerror
        raise WriteError(f"{source} cannot be hard-linked into the bundle: {reason}. Use --weights copy") from error


def reflink(source: Path, target: Path) -> bool:
    """Copy `source` to `target` by sharing its blocks; False, and no file, where the file system cannot.

    Raises WriteError for everything else that fails.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as held, target.open("xb") as new:
            fcntl.ioctl(new.fileno(), _FICLONE, held.fileno())
            read_only(new.fileno())  # a copy of the bundle's own, which a link is not
        return True
    except OSError as error:
        target.unlink(missing_ok=True)
        if error.errno in _NO_REFLINK:
            return False
        raise write_error(target, error) from error
