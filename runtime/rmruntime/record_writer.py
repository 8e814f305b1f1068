"""Writes output records: JSON lines to standard output or a file, or a Parquet table.

A file appears under its name only when it is complete: it is written beside it and renamed. When a run ends early, what
was written can be kept under another name.
"""

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from rmruntime.errors import OutputError, RewardModelError
from rmruntime.pending_file import PendingFile, write_reason
from rmruntime.record_files import import_pyarrow

STDOUT = "standard output"
INT64 = range(-(1 << 63), 1 << 63)


class RecordWriter(Protocol):
    """A context manager; leaving it with an exception discards what was written to a file and not salvaged."""

    def refusal(self, identity: object) -> str | None:
        """Why an id cannot be written; None where it can."""

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record, in order. Raises OutputError."""

    def finish(self) -> None:
        """Give the file its name; nothing is written after. Raises OutputError."""

    def salvage(self) -> str | None:
        """Keep what was written under another name; says where, and None where there is nothing to keep."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_writer(target: str | Path | None) -> RecordWriter:
    """A writer for `target`: a path (Parquet where it ends in .parquet, else JSON lines), None or "-" for stdout.

    Raises RewardModelError when the folder is missing or cannot be written, or when pyarrow is needed and absent.
    """
    if target is None or target == "-":
        return StandardOutputWriter()
    path = Path(target)
    if not os.path.isdir(path.parent):
        raise RewardModelError(f"{path}: the folder {path.parent} does not exist; make it first")
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that cannot exist; opening it then tells why
        raise RewardModelError(f"{path}: found a folder, expected a file name")
    return ParquetWriter(path) if path.suffix == ".parquet" else JsonLinesWriter(path)


class _Writer:
    """What the writers have in common: a file that is finished or discarded when the context ends."""

    def refusal(self, identity: object) -> str | None:
        """See RecordWriter."""
        return None

    def finish(self) -> None:
        """See RecordWriter."""

    def discard(self) -> None:
        """Remove what was neither finished nor salvaged."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.discard()


class StandardOutputWriter(_Writer):
    """One JSON object a line on standard output, in its own encoding."""

    def __init__(self) -> None:
        """Raises OutputError when standard output is closed."""
        if sys.stdout is None:
            raise OutputError(f"{STDOUT}: found it closed, expected a place for the records; give one with -o")
        self._file = sys.stdout
        # Standard output may be in an encoding that lacks the characters of an id.
        self._ascii = (self._file.encoding or "").lower() not in ("utf-8", "utf8")
        self._written = 0

    def write(self, record: Mapping[str, object]) -> None:
        """See RecordWriter."""
        text = _json_line(record, ascii_only=self._ascii).decode()
        with self._reported():
            self._file.write(text)
        self._written += 1

    def finish(self) -> None:
        """See RecordWriter."""
        with self._reported():
            self._file.flush()

    def salvage(self) -> None:
        """What was written is with its reader already."""
        if not self._file.closed:
            self.finish()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it was closed
            raise OutputError(
                f"{STDOUT}: {write_reason(error)}; about {self._written} records were written before (-o FILE keeps all)"
            ) from error


class JsonLinesWriter(_Writer):
    """One JSON object a line, UTF-8, floats as Python prints them (nothing is rounded)."""

    def __init__(self, path: Path) -> None:
        self._file = PendingFile(path)
        self._end = 0  # of the last whole record

    def write(self, record: Mapping[str, object]) -> None:
        """See RecordWriter. Raises RewardModelError for a value that JSON has no word for (NaN, infinity)."""
        line = _json_line(record)
        self._file.write(line)
        self._end += len(line)

    def finish(self) -> None:
        """See RecordWriter."""
        self._file.finish()

    def salvage(self) -> str | None:
        """See RecordWriter. A record of which the disk took only a part is cut off."""
        return self._file.keep(self._end) if self._end else None

    def discard(self) -> None:
        """See _Writer."""
        self._file.discard()


class ParquetWriter(_Writer):
    """A table whose columns are all keys that occurred; ids of mixed types become strings.

    Rows are held in memory until the end, because only then are all columns and their types known.
    """

    def __init__(self, path: Path) -> None:
        self._pyarrow, self._parquet = import_pyarrow(path)
        self._path = path
        self._file = PendingFile(path)  # a folder that cannot be written is found out before scoring, not after
        self._rows: list[dict[str, Any]] = []

    def refusal(self, identity: object) -> str | None:
        """See RecordWriter."""
        if isinstance(identity, int) and identity not in INT64:
            return f"found {identity}, expected an integer of 64 bits, as Parquet holds them; write JSON lines (.jsonl)"
        return None

    def write(self, record: Mapping[str, object]) -> None:
        """See RecordWriter. Raises RewardModelError for a value that JSON has no word for."""
        self._rows.append(json.loads(_json_line(record)))

    def finish(self) -> None:
        """See RecordWriter. Raises OutputError for rows that are no table, too."""
        self._write_table()
        self._file.finish()

    def salvage(self) -> str | None:
        """See RecordWriter. Rows that cannot become a table here are kept as JSON lines, where there is room."""
        if not self._rows:
            return None
        try:
            self._write_table()
            return self._file.keep(None)
        except OutputError:
            self._file.discard()
        kept = [_kept_lines(self._path.name, folder, self._rows) for folder in (self._path.parent, _temporary())]
        return max(kept, key=lambda found: found[0])[1]

    def discard(self) -> None:
        """See _Writer."""
        self._file.discard()

    def _write_table(self) -> None:
        try:
            self._file.truncate(0)
            with self._file.file() as file:
                self._parquet.write_table(self._pyarrow.table(self._columns()), file)
        except (self._pyarrow.ArrowException, OSError, ValueError) as problem:
            reason = write_reason(problem) if isinstance(problem, OSError) else str(problem)
            raise OutputError(
                f"{self._path}: the records cannot be written as a Parquet table ({reason}); try .jsonl"
            ) from problem

    def _columns(self) -> dict[str, list[Any]]:
        names = dict.fromkeys(name for row in self._rows for name in row)
        columns = {name: [row.get(name) for row in self._rows] for name in names}
        if len({type(value) for value in columns.get("id", ())}) > 1:
            columns["id"] = [value if isinstance(value, str) else json.dumps(value) for value in columns["id"]]
        return columns


def _kept_lines(name: str, folder: Path, rows: list[dict[str, Any]]) -> tuple[int, str | None]:
    """How many of the rows there was room for in a folder, and in which file they are."""
    try:
        file = PendingFile(folder / f"{name}.jsonl")
    except RewardModelError:
        return 0, None
    ...


def _json_line(record: Mapping[str, object], *, ascii_only: bool = False) -> bytes:
    """Half a surrogate pair, which UTF-8 has no bytes for, is escaped, as JSON allows."""
    try:
        text = json.dumps(record, ensure_ascii=ascii_only, allow_nan=False, default=_plain) + "\n"
    except ValueError as error:
        raise RewardModelError(f"record {record.get('id')!r}: found a number that is not finite in {record}") from error
    return text.encode(errors="backslashreplace")


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
