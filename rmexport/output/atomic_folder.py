"""Writes folders that are there whole or not at all."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rmexport.errors import TargetExists, WriteError
from rmexport.output.deferred_interrupt import deferred_interrupt
from rmexport.output.staging_folder import (
    LOCK,
    KeepReusable,
    Notify,
    UnfinishedFolder,
    ignore,
    nothing_to_keep,
    siblings,
    take_folder,
)
from rmruntime.bundle.manifest import FileRecord, FileRole


@contextmanager
def new_folder(
    target: Path,
    *,
    overwrite: bool,
    kind: str,
    marker: Callable[[Path], bool],
    settle: KeepReusable = nothing_to_keep,
    restart: bool = False,
    notify: Notify = ignore,
) -> Iterator[Path]:
    """A temporary folder beside `target` to write into; it becomes `target` when the block ends without an error.

    `marker` tells whether a folder is of the `kind` that `overwrite` may replace. What `settle` leaves of an attempt
    that failed is kept, with the temporary folder, and is what the next one finds there, unless it is to `restart`; of
    one that lost to another nothing is.
    Whatever happens, `target` is then the complete new folder, or what it was before, or (when the process is killed
    between two renames of an overwrite) absent. A killed process leaves its temporary folder, which the next export to
    the same target continues or removes. Raises TargetExists when there is something at `target` that must not be
    replaced, and WriteError when folders cannot be made or renamed.
    """
    target = Path(os.path.realpath(target))  # through a link, the folder it points to is replaced
    _check_target(target, overwrite, kind, marker)
    with _translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = take_folder(target, nothing_to_keep if restart else settle, notify)
    try:
        yield folder.path
        with _translated(target):
            _sync_tree(folder.path)
            _check_target(target, overwrite, kind, marker)
            with deferred_interrupt():
                _replace(target, folder.path)
                (target / LOCK).unlink()
    except BaseException:
        # Where another export to the same target was faster, the next one is refused: nothing is worth keeping.
        _abandon(folder, settle if overwrite or not os.path.lexists(target) else nothing_to_keep, notify)
        raise
    finally:
        os.close(folder.lock)


def _abandon(folder: UnfinishedFolder, settle: KeepReusable, notify: Notify) -> None:
    """Remove the folder, or all of it but what the next attempt can take over. Without locks it could not know."""
    try:
        kept = settle(folder.path) if folder.locked else None
    except OSError:  # what made the attempt fail may be in its way too: the next one tidies up
        return
    if kept is None:
        shutil.rmtree(folder.path, ignore_errors=True)
    else:
        notify(
            f"{kept} are kept in {folder.path}: run the same command again to continue, or with --restart to start over"
        )


def write_file(folder: Path, name: str, data: bytes, role: FileRole | None = None) -> FileRecord:
    """Write a small new file of a bundle and give its record. Raises WriteError."""
    with _translated(folder / name):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return FileRecord(name=name, size=len(data), role=role, sha256=hashlib.sha256(data).hexdigest())


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Write a small file into a finished bundle; readers see the old content or the new. Raises WriteError."""
    temporary = folder / f".{name}.partial-{secrets.token_hex(4)}"
    with _translated(folder / name):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, folder / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(folder)


def _check_target(target: Path, overwrite: bool, kind: str, marker: Callable[[Path], bool]) -> None:
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise TargetExists(f"{target} exists already; choose another target, or replace the {kind} with --overwrite")
    if not marker(target):
        raise TargetExists(f"{target} exists and is not a {kind}, so --overwrite leaves it alone; remove it yourself")


@contextmanager
def _translated(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"{target} cannot be written: {error.strerror}") from error


def _sync_tree(folder: Path) -> None:
    """Everything reaches the disk before the rename does: a name must never come to stand for half a bundle."""
    for path, _, files in os.walk(folder):
        for name in files:
            _sync(Path(path) / name)
        _sync(Path(path))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(target: Path, folder: Path) -> None:
    """Rename `folder` to `target`. An old bundle steps aside first and comes back if that fails."""
    old = target.with_name(f".{target.name}.replaced-{secrets.token_hex(4)}")
    replacing = os.path.lexists(target)
    if replacing:
        os.rename(target, old)
    try:
        os.rename(folder, target)
    except OSError:
        if replacing:
            os.rename(old, target)
        raise
    _sync(target.parent)
    for replaced in siblings(target, "replaced"):
        shutil.rmtree(replaced, ignore_errors=True)
