"""Writes folders that appear complete or not at all."""

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
    keep_reusable: KeepReusable = nothing_to_keep,
    restart: bool = False,
    notify: Notify = ignore,
) -> Iterator[Path]:
    """A temporary folder beside `target` to write into; it becomes `target` when the block ends without an error.

    `marker` tells whether a folder is of the `kind` that `overwrite` may replace. When the block fails, `keep_reusable`
    removes the files that cannot be used again, and the next attempt at the same target continues with the rest, unless
    it is to `restart`. Nothing is kept where another process finished the target first.
    In the end `target` is the complete new folder, or as it was before, or (when the process is killed between two
    renames of an overwrite) absent. A killed process leaves its temporary folder, which the next attempt at the same
    target continues or removes. Raises TargetExists when `target` must not be replaced, and WriteError when folders
    cannot be created or renamed.

    >>> with new_folder(Path("bundle"), overwrite=False, kind="bundle", marker=lambda folder: True) as folder:
    ...     _ = write_file(folder, "manifest.json", b"{}")
    >>> [path.name for path in Path("bundle").iterdir()]
    ['manifest.json']
    """
    target = Path(os.path.realpath(target))  # through a link, the folder it points to is replaced
    _check_target(target, overwrite, kind, marker)
    with _translated(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = take_folder(target, nothing_to_keep if restart else keep_reusable, notify)
    try:
        yield folder.path
        with _translated(target):
            _sync_tree(folder.path)
            _check_target(target, overwrite, kind, marker)
            with deferred_interrupt():
                _replace(target, folder.path)
                (target / LOCK).unlink()
    except BaseException:
        # Where another process finished the same target first, a next attempt is refused, so nothing need be kept.
        _abandon(folder, keep_reusable if overwrite or not os.path.lexists(target) else nothing_to_keep, notify)
        raise
    finally:
        os.close(folder.lock)


def _abandon(folder: UnfinishedFolder, keep_reusable: KeepReusable, notify: Notify) -> None:
    """Remove the folder, except for files that the next attempt can use; all of it where there are no file locks."""
    try:
        kept = keep_reusable(folder.path) if folder.locked else None
    except OSError:  # the failure may prevent this too: the next attempt tidies up
        return
    if kept is None:
        shutil.rmtree(folder.path, ignore_errors=True)
    else:
        notify(
            f"{kept} are kept in {folder.path}: run the same command again to continue, or with --restart to start over"
        )


def write_file(folder: Path, name: str, data: bytes, role: FileRole | None = None) -> FileRecord:
    """Write a small new file into a folder; returns its record for the manifest. Raises WriteError.

    >>> write_file(Path("new"), "notes.txt", b"abc").size
    3
    """
    with _translated(folder / name):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return FileRecord(name=name, size=len(data), role=role, sha256=hashlib.sha256(data).hexdigest())


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Write a small file into a finished folder, so that readers see the old content or the new. Raises WriteError.

    >>> _ = Path("notes.txt").write_bytes(b"old")
    >>> replace_file(Path(), "notes.txt", b"new")
    >>> Path("notes.txt").read_bytes()
    b'new'
    """
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
        raise WriteError(
            f"{target} cannot be written: {error.strerror}; make room, or choose another target"
        ) from error


def _sync_tree(folder: Path) -> None:
    """Flush all files of a folder to the disk, so that its new name can never appear there without its content."""
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
    """Rename `folder` to `target`. An old folder there is renamed first, and renamed back if that fails."""
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
