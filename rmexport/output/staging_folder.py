"""The temporary folder beside a target: created and locked, and found again after its process was killed."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOCK = ".writing"
Notify = Callable[[str], None]  # called with a message for the user
# Removes from an unfinished folder all files that a later attempt cannot use; returns what is left, for a message, or
# None where nothing is.
KeepReusable = Callable[[Path], str | None]


@dataclass(frozen=True)
class UnfinishedFolder:
    """A temporary folder; `lock` is the descriptor of a file in it, whose lock ends when this process ends.

    `locked` is False where the file system has no locks: another process cannot know then whether this one is running.
    """

    path: Path
    lock: int
    locked: bool


def nothing_to_keep(folder: Path) -> str | None:
    """The `KeepReusable` of folders that are always written from the beginning.

    >>> nothing_to_keep(Path(".bundle.partial-0")) is None
    True
    """
    return None


def ignore(message: str) -> None:
    """The `Notify` that drops messages.

    >>> ignore("continuing an earlier export")
    """


def take_folder(target: Path, keep_reusable: KeepReusable, notify: Notify) -> UnfinishedFolder:
    """The folder of an interrupted attempt that `keep_reusable` can continue, else a new one.

    Other folders of attempts at the same target are removed, unless their process may be running.

    >>> take_folder(Path("bundle").resolve(), nothing_to_keep, ignore).path.name.startswith(".bundle.partial-")
    True
    """
    taken: UnfinishedFolder | None = None
    for path in sorted(siblings(target, "partial"), key=_age):
        lock = _free_lock(path, notify)
        if lock is None:
            continue
        if taken is None and keep_reusable(path) is not None:
            taken = UnfinishedFolder(path, lock, locked=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
    return taken or _new_folder(target)


def siblings(target: Path, kind: str) -> list[Path]:
    """The hidden folders beside `target` that attempts at it made; `kind` is "partial" or "replaced".

    >>> Path(".bundle.partial-0").mkdir()
    >>> siblings(Path("bundle"), "partial")
    [PosixPath('.bundle.partial-0')]
    """
    prefix = f".{target.name}.{kind}-"
    return [path for path in target.parent.iterdir() if path.name.startswith(prefix)]


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:  # its process has just finished
        return 0.0


def _free_lock(folder: Path, notify: Notify) -> int | None:
    """The lock of a folder whose process has ended; None where one may be running, or has not locked it yet."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == (folder / LOCK).stat().st_ino:
            return descriptor
    except BlockingIOError:
        notify(f"another process is writing the same target, in {folder}; this one starts from the beginning")
    except FileNotFoundError:
        pass  # the folder became a target before the lock was ours
    except OSError:
        notify(f"{folder} may belong to a running process: there are no file locks here; if none runs, remove it")
    os.close(descriptor)
    return None


def _new_folder(target: Path) -> UnfinishedFolder:
    folder = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    folder.mkdir()
    descriptor, locked = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666), False
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    return UnfinishedFolder(folder, descriptor, locked)
