"""What is complete in an unfinished bundle, so that an interrupted export continues where complete shards end.

The journal is the folder's lock file, a JSON object a line: `{"shards": N}` when writing begins, and an entry for each
shard that has reached the disk. Lines are only appended; the last of a shard counts. A complete bundle has none.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rmexport.checkpoint import Checkpoint
from rmexport.errors import CheckpointError
from rmexport.options import ExportOptions
from rmexport.output.staging_folder import LOCK, Notify, ignore
from rmexport.version import __version__
from rmexport.weights.hashed_file import write_error
from rmexport.weights.shard_plan import Shard

# The form of the facts that `made_from` digests. Shards whose digest is of another form are written again: count it up
# when a change of the facts could give equal text another meaning.
_FACTS = 2


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A complete shard: a digest of what it was made from, and how its file was left.

    `mtime_ns` is None for a shard that was only read, for its hash.
    """

    shard: str
    made_from: str
    size: int
    sha256: str
    mtime_ns: int | None


class Journal:
    """The journal of the unfinished bundle in `folder`; without one, of a bundle that nobody can continue."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self.entries: dict[str, Entry] = {}
        self.shards = 0
        for line in _lines(folder):
            if set(line) == {"shards"}:
                self.shards = line["shards"]
            elif set(line) == set(Entry.__dataclass_fields__):
                self.entries[line["shard"]] = Entry(**line)

    def intact(self) -> dict[str, Entry]:
        """The entries whose files have the size and modification time that they were left with."""
        return {name: entry for name, entry in self.entries.items() if self._is_intact(entry)}

    def begin(self, shards: int) -> None:
        """Say how many shards the bundle will have. Raises WriteError."""
        self._append({"shards": shards})

    def add(self, shard: str, made_from: str, sha256: str, path: Path | None) -> None:
        """Say that a shard is complete, and on the disk unless `path` is None. Raises WriteError."""
        if self._folder is None:
            return
        found = None if path is None else path.stat()
        size, mtime_ns = (found.st_size, found.st_mtime_ns) if found else (0, None)
        entry = Entry(shard=shard, made_from=made_from, size=size, sha256=sha256, mtime_ns=mtime_ns)
        self._append(asdict(entry))

    def take_over(self, wanted: Mapping[str, str], notify: Notify) -> dict[str, Entry]:
        """The complete shards that are `wanted`, name to what it must have been made from; the others are removed.

        `notify` is told how many there are, and why others are not among them.
        """
        intact = self.intact()
        same = {name for name, entry in self.entries.items() if wanted.get(name) == entry.made_from}
        taken = {name: entry for name, entry in intact.items() if name in same}
        if other := self.entries.keys() - same:
            notify(
                f"{_count(other)} of an interrupted export to this target came from other files or options (or another "
                "version of rmexport): not used"
            )
        if changed := same - taken.keys():
            notify(f"{', '.join(sorted(changed))} of the interrupted export changed or went since: written again")
        if taken:
            notify(f"continuing an interrupted export: {len(taken)} of {len(wanted)} shards are there already")
        self._remove(self.entries.keys() - taken.keys())
        return taken

    def discard(self) -> None:
        """Nothing of this folder is worth continuing."""
        if self._folder is not None:
            os.truncate(self._folder / LOCK, 0)

    def _remove(self, names: Set[str]) -> None:
        for name in names:
            if self._folder is not None:
                (self._folder / name).unlink(missing_ok=True)

    def _is_intact(self, entry: Entry) -> bool:
        if entry.mtime_ns is None or self._folder is None:
            return True
        with suppress(OSError):
            found = (self._folder / entry.shard).stat()
            return (found.st_size, found.st_mtime_ns) == (entry.size, entry.mtime_ns)
        return False

    def _append(self, line: Mapping[str, object]) -> None:
        if self._folder is None:
            return
        path = self._folder / LOCK
        try:
            with self._lock, path.open("ab") as file:
                file.write(b"\n" + json.dumps(line).encode() + b"\n")  # the line before may have been cut off
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(path, error) from error


def settle(folder: Path) -> str | None:
    """Remove all but complete shards from an unfinished bundle; returns how many, None for none (`KeepReusable`)."""
    journal = Journal(folder)
    intact = journal.intact()
    kept = {folder / LOCK, *(folder / name for name, entry in intact.items() if entry.mtime_ns is not None)}
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            if Path(path, name) not in kept:
                Path(path, name).unlink(missing_ok=True)
        for name in folders:
            with suppress(OSError):  # it holds a shard
                Path(path, name).rmdir()
    return f"{len(intact)} of {journal.shards} shards" if intact else None


def made_from(checkpoint: Checkpoint, shard: Shard, options: ExportOptions) -> str:
    """A digest of all that decides a shard's bytes: the plan, this version, and the files that it is read from.

    Files count as the same while their size and modification time are. Raises CheckpointError for files that are gone.
    """
    sources = {source for piece in shard.pieces for source in piece.weight.sources}
    tensors = [checkpoint.tensors[source] for source in sorted(sources)]
    files = {tensor.file for tensor in tensors}
    if checkpoint.base is not None:  # any of its files may have a part in any weight
        files = {file.name for file in checkpoint.source_files}
    states = [[name, *_state(checkpoint.path(name))] for name in sorted(files)]
    facts = [_FACTS, __version__, options.weights, asdict(shard), list(map(asdict, tensors)), states]
    return hashlib.sha256(json.dumps(facts, default=repr).encode()).hexdigest()


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return found.st_size, found.st_mtime_ns


def _lines(folder: Path | None) -> list[dict[str, Any]]:
    """The journal's lines; one that was cut off by a full disk or a power cut is as if it had not been written."""
    try:
        text = "" if folder is None else (folder / LOCK).read_text(errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            parsed = json.loads(line)
            lines += [parsed] if isinstance(parsed, dict) else []
    return lines


def _count(names: Set[str]) -> str:
    return f"{len(names)} shard" if len(names) == 1 else f"{len(names)} shards"


# (bytes done, bytes in total), from the start of what an interrupted export left; called from worker threads, one at a
# time.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reports:
    """`progress` of the bytes, what the user should know, and the journal of complete shards."""

    progress: Progress | None = None
    notify: Notify = ignore
    journal: Journal = field(default_factory=lambda: Journal(None))


NOBODY = Reports()
