"""Writes output records: JSON lines to standard output or a file, or a Parquet table.

A file appears under its name only when it is complete: it is written beside it and renamed.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

import numpy as np

from rmruntime.errors import RewardModelError
from rmruntime.record_files import import_pyarrow


class RecordWriter(Protocol):
    """A context manager; leaving it with an exception discards what was written to a file."""

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record, in order."""

    def salvage(self) -> Path | None:
        """What was written stays though an exception follows, under the name that is given back; None for stdout."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_writer(target: str | Path | None) -> RecordWriter:
    """A writer for `target`: a path (Parquet where it ends in .parquet, else JSON lines), None or "-" for stdout.

    Raises RewardModelError when the folder is missing or cannot be written, or when pyarrow is needed and absent.
    """
    if target is None or target == "-":
        return JsonLinesWriter(None)
    path = Path(target)
    if not os.path.isdir(path.parent):
        raise RewardModelError(f"{path}: the folder {path.parent} does not exist; make it first")
    if os.path.isdir(path):  # unlike Path.is_dir, False for a name that cannot exist; opening it then tells why
        raise RewardModelError(f"{path}: found a folder, expected a file name")
    return ParquetWriter(path) if path.suffix == ".parquet" else JsonLinesWriter(path)


class JsonLinesWriter:
    """One JSON object a line, UTF-8, floats as Python prints them (nothing is rounded)."""

    def __init__(self, path: Path | None) -> None:
        self._final = None if path is None else _Pending(path)
        self._file: TextIO = sys.stdout if self._final is None else self._final.open_text()
        # Standard output may be in an encoding that lacks the characters of an id.
        self._ascii = (self._file.encoding or "").lower() not in ("utf-8", "utf8")

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record; raises RewardModelError for a value that JSON has no word for (NaN, infinity)."""
        self._file.write(_json_line(record, ascii_only=self._ascii))

    def salvage(self) -> Path | None:
        """See RecordWriter."""
        return None if self._final is None else self._final.salvage()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._final is None:
            self._file.flush()
            return
        try:
            self._file.close()
            self._final.settle(keep=kind is None)
        except OSError as problem:  # the last records did not fit on the disk
            self._final.discard()
            raise RewardModelError(f"{self._final.path}: cannot be written ({problem.strerror})") from problem


class ParquetWriter:
    """A table whose columns are all keys that occurred; ids of mixed types become strings.

    Rows are held in memory until the end, because only then are all columns and their types known.
    """

    def __init__(self, path: Path) -> None:
        self._pyarrow, self._parquet = import_pyarrow(path)
        self._final = _Pending(path)
        self._final.open_text().close()  # a folder that cannot be written is found out before scoring, not after
        self._rows: list[dict[str, Any]] = []

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record; raises RewardModelError for a value that JSON has no word for."""
        self._rows.append(json.loads(_json_line(record)))

    def salvage(self) -> Path | None:
        """See RecordWriter."""
        return self._final.salvage()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or self._final.salvaged is not None:
                self._parquet.write_table(self._pyarrow.table(self._columns()), self._final.partial)
                self._final.settle(keep=kind is None)
        except (self._pyarrow.ArrowException, OSError) as problem:
            raise RewardModelError(
                f"{self._final.path}: the records cannot be written as a Parquet table ({problem}); try .jsonl"
            ) from problem
        finally:
            self._final.discard()

    def _columns(self) -> dict[str, list[Any]]:
        names = dict.fromkeys(name for row in self._rows for name in row)
        columns = {name: [row.get(name) for row in self._rows] for name in names}
        if len({type(value) for value in columns.get("id", ())}) > 1:
            columns["id"] = [str(value) for value in columns["id"]]
        return columns


class _Pending:
    """A file under a temporary name, until it is kept or discarded."""

    def __init__(self, path: Path) -> None:
        # Renaming onto /dev/stdout or a named pipe would replace it by a plain file.
        special = os.path.exists(path) and not os.path.isfile(path)
        self.path = path if special else path.resolve()
        self.salvaged: Path | None = None
        self.partial = path if special else self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")

    def open_text(self) -> TextIO:
        try:
            return self.partial.open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise RewardModelError(f"{self.path}: cannot be written ({error.strerror})") from error

    def salvage(self) -> Path:
        """Have `settle` keep what there is, under another name than a complete file would get."""
        if self.salvaged is None and self.partial != self.path:
            self.salvaged = self.path.with_name(f"{self.path.name}.partial")
        return self.salvaged or self.path

    def settle(self, *, keep: bool) -> None:
        """Rename the partial file to its name, or to that of salvaged records, or remove it."""
        if self.partial == self.path:
            return
        name = self.path if keep else self.salvaged
        if name is not None:
            self.partial.replace(name)
        else:
            self.discard()

    def discard(self) -> None:
        """Remove what is left of the partial file."""
        if self.partial != self.path:
            self.partial.unlink(missing_ok=True)


def _json_line(record: Mapping[str, object], *, ascii_only: bool = False) -> str:
    try:
        return json.dumps(record, ensure_ascii=ascii_only, allow_nan=False, default=_plain) + "\n"
    except ValueError as error:
        raise RewardModelError(f"record {record.get('id')!r}: found a number that is not finite in {record}") from error


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
