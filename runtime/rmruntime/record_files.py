"""Reads records from JSON lines or Parquet, one at a time, and turns what is wrong with one into a value.

Between the files users have and the scorer. The number of a record is its line's index from 0 (blank lines count,
so that it can be found again), or its row's index in a Parquet table; it is the record's id where it has none.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rmruntime.errors import InputError, RecordError, RewardModelError
from rmruntime.records import IGNORED_KEYS, Request, parse_record

LINE_SUFFIXES = (".jsonl", ".json", ".ndjson", "")
PARQUET_ROWS = 1024
_BOM = "\ufeff"

Record = tuple[int, Request | InputError]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where records begin: the name of their file, the first one's line or row there, and its record's number."""

    name: str
    first: int = 0
    record: int = 0


def read_records(source: str | Path | Iterable[str | bytes]) -> Iterator[Record]:
    """Number and request of every record, or the error that keeps it from being one.

    `source` is a path (.jsonl, .json with one object a line, .parquet), "-" for standard input, or an open file.
    Raises RewardModelError when the file as a whole cannot be read.
    """
    if source == "-":
        return read_lines(sys.stdin.buffer, Place(name="standard input"))
    if not isinstance(source, (str, Path)):
        return read_lines(source, Place(name=str(getattr(source, "name", "the input"))))
    path = Path(source)
    if not os.path.exists(path) or os.path.isdir(path):
        raise RewardModelError(f"{path}: found {'a folder' if os.path.isdir(path) else 'nothing'}, expected a file")
    if path.suffix == ".parquet":
        return read_rows(path, Place(name=path.name))
    if path.suffix in LINE_SUFFIXES:
        return _file_lines(path)
    raise RewardModelError(f"{path}: found the ending {path.suffix}, expected .jsonl, .json or .parquet")


def import_pyarrow(path: Path) -> Any:
    """The modules (pyarrow, pyarrow.parquet); only Parquet files need them.

    Raises RewardModelError that names the extra where they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise RewardModelError(f"{path}: Parquet needs pyarrow; run pip install 'rmruntime[parquet]'") from error
    return pyarrow, pyarrow.parquet


def _file_lines(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            yield from read_lines(file, Place(name=path.name))
    except OSError as error:
        raise RewardModelError(f"{path}: cannot be read ({error.strerror})") from error


def read_lines(lines: Iterable[str | bytes], place: Place) -> Iterator[Record]:
    """Records of lines that begin at a place; blank lines count and are none."""
    for offset, line in enumerate(lines):
        if line.strip():
            yield place.record + offset, _parse_line(line, offset, place)


def _parse_line(line: str | bytes, offset: int, place: Place) -> Request | InputError:
    data: object = None
    number = place.first + offset
    try:
        data = _decode_line(line, number)
        return parse_record(data)
    except RecordError as error:
        return _located(error, data, f"{place.name}, line {number + 1} (record {place.record + offset})")


def _decode_line(line: str | bytes, number: int) -> object:
    try:
        text = line if isinstance(line, str) else line.decode()
        return json.loads(text.removeprefix(_BOM) if number == 0 else text)
    except UnicodeDecodeError as error:
        raise RecordError(f"found bytes that are not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise RecordError(
            f"found text that is not JSON ({error.msg} at character {error.pos}), expected one object a line"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets nested as deep
        raise RecordError(f"found JSON that cannot be read ({error})") from error


def read_rows(
    path: Path, place: Place, *, groups: Sequence[int] | None = None, skip: int = 0, count: int | None = None
) -> Iterator[Record]:
    """Records of a Parquet table's rows: of `count` rows behind the first `skip` of these row groups, or of all.

    Raises RewardModelError when there is no such table.
    """
    pyarrow, parquet = import_pyarrow(path)
    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name not in IGNORED_KEYS]
            batches = file.iter_batches(batch_size=PARQUET_ROWS, columns=columns, row_groups=groups)
            end = None if count is None else skip + count
            for offset, row in enumerate(islice(_rows(batches, skip), skip, end)):
                yield place.record + offset, _parse_row(row, offset, place)
    except (pyarrow.ArrowException, OSError) as error:
        raise RewardModelError(f"{path}: found no readable Parquet table ({error})") from error


def _rows(batches: Iterable[Any], skip: int) -> Iterator[object]:
    """Rows of all batches; those of batches that are skipped as a whole are not made."""
    seen = 0
    for batch in batches:
        seen += batch.num_rows
        yield from batch.to_pylist() if seen > skip else [None] * batch.num_rows


def _parse_row(row: object, offset: int, place: Place) -> Request | InputError:
    try:
        return parse_record(row)
    except RecordError as error:
        where = f"{place.name}, row {place.first + offset + 1} (record {place.record + offset})"
        return _located(error, row, where)


def _located(error: RecordError, data: object, where: str) -> RecordError:
    """The error with its place, and with the record's own id where that much of it can be read."""
    located = RecordError(f"{where}: {error}")
    identity = data.get("id") if isinstance(data, dict) else None
    located.record_id = identity if isinstance(identity, (str, int)) and not isinstance(identity, bool) else None
    return located
