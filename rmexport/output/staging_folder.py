"""The temporary folder beside a target: made, locked, and found again when the process that wrote into it is gone."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOCK = ".writing"
Notify = Callable[[str], None]  # told, in words, what the user should know before there is a result
# Leaves in an unfinished folder only what a later attempt can take over, and says what that is; None for nothing.
KeepReusable = Callable[[Path], str | None]


@dataclass(frozen=True)
class UnfinishedFolder:
    """`lock` is an open file, whose lock ends with this process however that ends.

    `locked` is False where the file system has no locks: nobody can then know later whether this process is gone.
    """

    path: Path
    lock: int
    locked: bool


def nothing_to_keep(folder: Path) -> str | None:
    """The `KeepReusable` of folders whose writing starts over each time."""
    return None


def ignore(message: str) -> None:
    """The `Notify` of callers that do not listen."""


def take_folder(target: Path, settle: KeepReusable, notify: Notify) -> UnfinishedFolder:
    """The folder in which an interrupted attempt left what `settle` finds worth continuing, or else a new one.

    Other leftovers of attempts at the same target are removed, except those of processes that may be alive.
    """
    taken: UnfinishedFolder | None = None
    for path in sorted(siblings(target, "partial"), key=_age):
        lock = _free_lock(path, notify)
        if lock is None:
            continue
        if taken is None and settle(path) is not None:
            taken = UnfinishedFolder(path, lock, locked=True)
        else:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
    return taken or _new_folder(target)


def siblings(target: Path, kind: str) -> list[Path]:
    """The hidden folders beside `target` that belong to it."""
    prefix = f".{target.name}.{kind}-"
    return [path for path in target.parent.iterdir() if path.name.startswith(prefix)]


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:  # its process has just finished
        return 0.0


def _free_lock(folder: Path, notify: Notify) -> int | None:
    """The lock of a folder whose process is gone; None while one may be alive, or has not got to the lock yet."""
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
