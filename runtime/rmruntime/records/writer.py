"""Writes output records: JSON lines to standard output or a file, or a Parquet table.

A file appears under its name only when it is complete: it is written beside it and renamed. When a run ends early, what
was written can be kept under another name.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np

from rmruntime.errors import OutputError, RewardModelError
from rmruntime.records.pending_file import PendingFile, write_reason
from rmruntime.records.reader import import_pyarrow

STDOUT = "standard output"
INT64 = range(-(1 << 63), 1 << 63)


class RecordWriter(Protocol):
    """Writes output records; a context manager. Leaving it with an exception discards a file that was not salvaged."""

    def refusal(self, identity: object) -> str | None:
        """The reason why this id cannot be written; None where it can."""

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record, in order. Raises OutputError."""

    def finish(self) -> None:
        """Complete the file under its final name; nothing can be written afterwards. Raises OutputError."""

    def salvage(self) -> str | None:
        """Keep the records written so far under another name; returns where, for a message, or None for no records."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_writer(target: str | Path | None) -> RecordWriter:
    """A writer for `target`: a path (Parquet where it ends in .parquet, else JSON lines), None or "-" for stdout.

    Raises RewardModelError when the folder is missing or cannot be written, or when pyarrow is needed and absent.

    >>> with open_writer("-") as writer:
    ...     writer.write({"id": 1, "score": 0.5})
    {"id": 1, "score": 0.5}
    """
    if target is None or target == "-":
        return StandardOutputWriter()
    path = Path(target)
    if not os.path.isdir(path.parent):
        raise RewardModelError(f"{path}: the folder {path.parent} does not exist; make it first")
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that cannot exist; opening it then tells why
        raise RewardModelError(f"{path}: found a folder, expected a file name; give one with -o")
    return ParquetWriter(path) if path.suffix == ".parquet" else JsonLinesWriter(path)


class _Writer:
    """The base of the writers: finishes the file, or discards it, when the context ends."""

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
    """One JSON object per line on standard output, in its own encoding."""

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

    def salvage(self) -> str | None:
        """Flush; records on standard output have reached their reader, so there is nothing to keep."""
        with suppress(OutputError):
            self.finish()
        return None

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: standard output was closed meanwhile
            raise OutputError(
                f"{STDOUT}: {write_reason(error)}; {self._written} records were written to it, of which its reader may "
                "lack the last; -o FILE keeps all"
            ) from error


class JsonLinesWriter(_Writer):
    """One JSON object per line, UTF-8, floats as Python prints them (nothing is rounded)."""

    def __init__(self, path: Path) -> None:
        self._file = PendingFile(path)
        self._records = self._end = 0  # records written whole, and the byte where the last of them ends

    def write(self, record: Mapping[str, object]) -> None:
        """See RecordWriter. Raises RewardModelError for a value that JSON cannot hold (NaN, infinity)."""
        line = _json_line(record)
        self._file.write(line)
        self._records += 1
        self._end += len(line)

    def finish(self) -> None:
        """See RecordWriter."""
        self._file.finish()

    def salvage(self) -> str | None:
        """See RecordWriter. A record that was written only in part is cut off."""
        kept = self._file.keep(self._end) if self._records else None
        return None if kept is None else f"{kept} ({_counted(self._records)})"

    def discard(self) -> None:
        """See _Writer."""
        self._file.discard()


class ParquetWriter(_Writer):
    """A table whose columns are all keys that occurred; ids of mixed types become strings.

    Rows are held in memory until the end, because only then are all columns and their types known.
    """

    def __init__(self, path: Path) -> None:
        self._pyarrow, self._parquet = import_pyarrow(path)
        self._file = PendingFile(path)  # fails before scoring, not after, where the folder cannot be written
        self._rows: list[dict[str, Any]] = []

    def refusal(self, identity: object) -> str | None:
        """See RecordWriter."""
        if isinstance(identity, int) and identity not in INT64:
            shown = f"{identity}" if identity.bit_length() <= 256 else f"a number of {identity.bit_length()} bits"
            return f"id: found {shown}, expected an integer of 64 bits, which Parquet holds; write .jsonl instead"
        return None

    def write(self, record: Mapping[str, object]) -> None:
        """See RecordWriter. Raises RewardModelError for a value that JSON cannot hold."""
        self._rows.append(json.loads(_json_line(record)))

    def finish(self) -> None:
        """See RecordWriter. Raises OutputError also for rows that cannot form a table."""
        if not self._file.settled:
            self._write_table()
            self._file.finish()

    def salvage(self) -> str | None:
        """See RecordWriter. Rows that cannot form a table, or do not fit on the disk as one, become JSON lines."""
        if not self._rows or self._file.settled:
            return None
        try:
            kept = self._file.keep(self._write_table())
            return None if kept is None else f"{kept} ({_counted(len(self._rows))})"
        except OutputError:
            self._file.discard()  # frees disk space
        return keep_lines(self._file.path.name, (self._file.path.parent, Path(tempfile.gettempdir())), self._rows)

    def discard(self) -> None:
        """See _Writer."""
        self._file.discard()

    def _write_table(self) -> int:
        """Write the rows as a table; returns its size in bytes. Raises OutputError."""
        sink = self._pyarrow.BufferOutputStream()
        try:
            self._parquet.write_table(self._pyarrow.table(self._columns()), sink)
        except (self._pyarrow.ArrowException, ValueError, OverflowError) as problem:
            raise OutputError(
                f"{self._file.path}: the records cannot be written as a Parquet table ({problem}); try .jsonl"
            ) from problem
        table = memoryview(sink.getvalue())
        self._file.write(table)
        return len(table)

    def _columns(self) -> dict[str, list[Any]]:
        names = dict.fromkeys(name for row in self._rows for name in row)
        columns = {name: [row.get(name) for row in self._rows] for name in names}
        if len({type(value) for value in columns.get("id", ())}) > 1:
            columns["id"] = [value if isinstance(value, str) else json.dumps(value) for value in columns["id"]]
        return columns


def keep_lines(name: str, folders: Iterable[Path], rows: Sequence[Mapping[str, object]]) -> str | None:
    """Keep rows as JSON lines in NAME.jsonl.partial, in the first of `folders` that has disk space for all of them.

    Where none has, as many rows as fit in the folder that takes most. Returns where, for a message; None where not even
    one row fits.

    >>> keep_lines("scores.parquet", [Path("missing"), Path()], [{"id": 1, "score": 0.5}]).endswith(" (1 record)")
    True
    """
    tried: list[tuple[int, JsonLinesWriter]] = []
    for folder in folders:
        with suppress(OutputError):
            tried.append((0, JsonLinesWriter(folder / f"{name}.jsonl")))
            for number, row in enumerate(rows, 1):
                tried[-1][1].write(row)
                tried[-1] = (number, tried[-1][1])
            break
    best = max(tried, key=lambda count_and_writer: count_and_writer[0], default=None)
    kept = None if best is None else best[1].salvage()
    for _, writer in tried:
        writer.discard()
    return kept


def _counted(records: int) -> str:
    return f"{records} record{'' if records == 1 else 's'}"


def _json_line(record: Mapping[str, object], *, ascii_only: bool = False) -> bytes:
    """One line of JSON. Half a surrogate pair, which has no UTF-8 encoding, is escaped, as JSON allows."""
    try:
        text = json.dumps(record, ensure_ascii=ascii_only, allow_nan=False, default=_plain) + "\n"
    except ValueError as error:
        raise RewardModelError(
            f"record {record.get('id')!r}: found a number that is not finite in {record}, expected finite numbers; "
            "JSON has no others"
        ) from error
    return text.encode(errors="backslashreplace")


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
