"""A folder that keeps what the reference computed: files of sequences' states, each whole, checked, and of one key.

A file is `KEY-SEQUENCES.states`: a line with the sha256 of the rest, a line of JSON, and numbers in fp32. Files that
are not as they were written are removed and computed anew. Other files of the folder are left alone.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmexport.errors import OptionError, WriteError
from rmexport.output.atomic_folder import replace_file
from rmexport.output.staging_folder import Notify
from rmexport.verify.reference_key import ReferenceKey
from rmexport.verify.reference_pass import SequenceStates

OFF = "off"
LIMIT = 1 << 29  # bytes of all files together; those used longest ago go first
_LEAST = 1 << 14  # what even the smallest file counts for, so that there are not too many to look through
_ABANDONED = 86400  # seconds after which an unfinished file is nobody's
_FILE = re.compile(r"([0-9a-f]{64})-[0-9a-f]{32}\.states")
_UNFINISHED = re.compile(rf"\.{_FILE.pattern}\.partial-[0-9a-f]+")
_FORMAT = b"rmexport reference states 1 "


@dataclass(frozen=True, kw_only=True)
class Kept:
    """States and when they were computed, in seconds since 1970."""

    states: SequenceStates
    made: float


def default_folder() -> Path | None:
    """`rmexport/reference` in the user's cache folder, as the XDG specification has it; None without a home.

    >>> default_folder().parts[-2:]
    ('rmexport', 'reference')
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():
        return Path(base, "rmexport", "reference")
    with suppress(RuntimeError):
        return Path.home() / ".cache" / "rmexport" / "reference"
    return None


def open_cache(option: str | None, notify: Notify) -> "ReferenceCache":
    """The cache in the folder `option`, in the default one, or one that keeps nothing for "off".

    Raises OptionError where the option names something else than a folder.

    >>> open_cache("off", print).keeps
    False
    """
    if option == OFF:
        return ReferenceCache(None, notify)
    if option is None:
        return ReferenceCache(default_folder(), notify)
    folder = Path(option).expanduser()
    if not option or (folder.exists() and not folder.is_dir()):
        raise OptionError(f"the reference cache is {option!r}, which is no folder: give a folder, or {OFF!r}")
    return ReferenceCache(folder, notify)


class ReferenceCache:
    """What is kept in `folder`, None for nothing. Two processes may use one folder at once.

    A folder that cannot be written is read all the same; `notify` is told why nothing is added. `now` is the time in
    seconds since 1970.
    """

    def __init__(
        self, folder: Path | None, notify: Notify, now: Callable[[], float] = time.time, limit: int = LIMIT
    ) -> None:
        self.folder = folder
        self.keeps = folder is not None
        self._notify, self._now, self._limit = notify, now, limit
        self._used: set[str] = set()  # names of files that this run read or wrote

    def read(self, key: ReferenceKey, dtype: str, wanted: Container[str]) -> dict[str, Kept]:
        """What is there of the sequences `wanted`, by their keys."""
        context = key.digest(dtype)
        found: dict[str, Kept] = {}
        for path in self._files():
            if not path.name.startswith(context):
                continue
            entries = _read(path, context)
            taken = {name: kept for name, kept in entries.items() if name in wanted}
            found |= taken
            with suppress(OSError):  # a folder that cannot be written
                if taken:
                    self._used.add(path.name)
                    os.utime(path)
                elif not entries:
                    path.unlink(missing_ok=True)
        return found

    def keep(self, key: ReferenceKey, dtype: str, states: Mapping[str, SequenceStates]) -> None:
        """Add the states of sequences, by their keys."""
        if not self.keeps or self.folder is None:
            return
        context = key.digest(dtype)
        about = {"checkpoint": str(key.checkpoint.folder), "dtype": dtype, "context": context, "made": self._now()}
        name = f"{context}-{hashlib.sha256(' '.join(sorted(states)).encode()).hexdigest()[:32]}.states"
        data = _encode(about, states)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._make_room(len(data)):
                self._stop(f"it would take more than the {self._limit >> 20} MiB that are kept")
                return
            replace_file(self.folder, name, data)
        except WriteError as error:
            self._stop(str(error))
        except OSError as error:
            self._stop(f"{self.folder} cannot be written: {error.strerror}")
        else:
            self._used.add(name)

    def _stop(self, reason: str) -> None:
        self.keeps = False
        self._notify(f"note: the reference's scores are not kept ({reason}); --reference-cache names another folder")

    def _files(self) -> list[Path]:
        """Those of this cache, and of nobody else."""
        if self.folder is None or not self.folder.is_dir():
            return []
        with suppress(OSError):
            return sorted(path for path in self.folder.iterdir() if _FILE.fullmatch(path.name))
        return []

    def _make_room(self, size: int) -> bool:
        """Remove the files used longest ago, but none of this run, until so many bytes more are within the limit."""
        self._remove_abandoned()
        sizes = {path: found for path in self._files() if (found := _stat(path)) is not None}
        total = sum(max(_LEAST, found.st_size) for found in sizes.values()) + max(_LEAST, size)
        for path in sorted(sizes, key=lambda path: sizes[path].st_mtime_ns):
            if total <= self._limit:
                break
            if path.name not in self._used:
                path.unlink(missing_ok=True)
                total -= max(_LEAST, sizes[path].st_size)
        return total <= self._limit

    def _remove_abandoned(self) -> None:
        """What a killed process left unfinished."""
        for path in self.folder.iterdir() if self.folder else ():
            if _UNFINISHED.fullmatch(path.name) and (found := _stat(path)) is not None:
                if self._now() - found.st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)


def _stat(path: Path) -> os.stat_result | None:
    """None for a file that another process has just removed."""
    with suppress(FileNotFoundError):
        return path.stat()
    return None


def _encode(about: Mapping[str, object], states: Mapping[str, SequenceStates]) -> bytes:
    sequences = [
        {"key": key, "peaks": dict(found.peaks), "shapes": {role: x.shape for role, x in found.values.items()}}
        for key, found in states.items()
    ]
    numbers = b"".join(x.astype("<f4").tobytes() for found in states.values() for x in found.values.values())
    body = json.dumps({**about, "sequences": sequences}).encode() + b"\n" + numbers
    return _FORMAT + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _read(path: Path, context: str) -> dict[str, Kept]:
    """The file's sequences by key; none where it is not as it was written, or not of this `context`."""
    try:
        data = path.read_bytes()
    except OSError:
        return {}
    first, _, body = data.partition(b"\n")
    if first != _FORMAT + hashlib.sha256(body).hexdigest().encode():
        return {}
    head, _, numbers = body.partition(b"\n")
    about = json.loads(head)
    if about["context"] != context:
        return {}
    return {key: Kept(states=found, made=about["made"]) for key, found in _decode(about["sequences"], numbers)}


def _decode(sequences: Sequence[Mapping[str, Any]], numbers: bytes) -> Iterator[tuple[str, SequenceStates]]:
    flat = np.frombuffer(numbers, "<f4")
    at = 0
    for entry in sequences:
        values = {}
        for role, shape in entry["shapes"].items():
            size = shape[0] * shape[1]
            values[role] = flat[at : at + size].reshape(shape).astype(np.float32)
            at += size
        yield entry["key"], SequenceStates(values=values, peaks=entry["peaks"])
