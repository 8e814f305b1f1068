"""Reads records from JSON lines, a JSON array or Parquet; a record that cannot be read yields its error as a value.

The number of a record is the index, from 0, of its line (blank lines count, so that the line can be found again), of
its item in an array, or of its row in a Parquet table. Output records carry it as id where a record has none.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from rmruntime.errors import InputError, RecordError, RewardModelError
from rmruntime.records.json_arrays import BOM, array_items, first_item, is_array
from rmruntime.records.parquet_rows import Row, table_rows
from rmruntime.records.requests import Request, identity_of, parse_record

LINE_SUFFIXES = (".jsonl", ".json", ".ndjson", "")
_BOM = "\ufeff"

Record = tuple[int, Request | InputError]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run of records begins: their file's name, the index of the first line or row there, and its number.

    The two differ where several files are numbered on.
    """

    name: str
    first: int = 0
    record: int = 0


def read_records(source: str | Path | Iterable[str | bytes]) -> Iterator[Record]:
    """The number and the request of every record, or the error in place of the request.

    `source` is a path (.jsonl, .json with one object per line or an array of them, .parquet), "-" for standard input,
    or lines, such as an open file.
    Raises RewardModelError when the file as a whole cannot be read.

    >>> lines = ['{"text": "Hello"}', '{"prompt": "Q", "responses": ["a", "b"]}']
    >>> [(number, request.kind) for number, request in read_records(lines)]
    [(0, 'single'), (1, 'candidates')]
    """
    if source == "-":
        return _standard_input()
    if not isinstance(source, (str, Path)):
        return read_lines(source, Place(name=str(getattr(source, "name", "the input"))))
    path = Path(source)
    if not os.path.exists(path) or os.path.isdir(path):
        raise RewardModelError(f"{path}: found {'a folder' if os.path.isdir(path) else 'nothing'}, expected a file")
    if path.suffix == ".parquet":
        return read_rows(path, Place(name=shown_name(path)))
    if path.suffix in LINE_SUFFIXES:
        return _path_lines(path)
    raise RewardModelError(f"{path}: found the ending {path.suffix}, expected .jsonl, .json or .parquet")


def import_pyarrow(path: Path) -> Any:
    """The modules (pyarrow, pyarrow.parquet), which only Parquet files need; `path` is the file, for the message.

    Raises RewardModelError, which says what to install, where they are missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise RewardModelError(f"{path}: Parquet needs pyarrow; run pip install 'rmruntime[parquet]'") from error
    return pyarrow, pyarrow.parquet


def _path_lines(path: Path) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            yield from _stream_records(file, Place(name=shown_name(path)), json_file=path.suffix == ".json")
    except OSError as error:
        raise RewardModelError(f"{path}: cannot be read ({error.strerror}); see to its permissions or disk") from error


def _standard_input() -> Iterator[Record]:
    if sys.stdin is None:
        raise RewardModelError("standard input: found it closed, expected records; give a file, or pipe records in")
    try:
        yield from _stream_records(sys.stdin.buffer, Place(name="standard input"), json_file=False)
    except OSError as error:
        raise RewardModelError(f"standard input: cannot be read ({error.strerror})") from error


def _stream_records(file: BinaryIO, place: Place, *, json_file: bool) -> Iterator[Record]:
    """Records of a JSON array, which is read whole, or of lines, which are read one by one."""
    first = file.readline()
    while first and not first.removeprefix(BOM).strip():
        place = replace(place, first=place.first + 1, record=place.record + 1)
        first = file.readline()
    if not first.removeprefix(BOM).lstrip().startswith(b"["):
        return read_lines(chain([first], file), place)
    data = first + file.read()
    if is_array(data, json_file=json_file):
        return read_items(data, first_item(data), replace(place, first=0, record=0))
    return read_lines(BytesIO(data), place)


def read_items(data: bytes, start: int, place: Place, count: int | None = None) -> Iterator[Record]:
    """Records of the JSON array in `data`, from the byte `start` on, where the record of `place` begins.

    `count` is how many are read; None: all that follow.

    >>> [number for number, _ in read_items(b'[{"text": "a"}, {"text": "b"}]', 1, Place(name="a.json"))]
    [0, 1]
    """
    for offset, item in enumerate(islice(array_items(data, start), count)):
        where = f"{place.name}, item {place.first + offset + 1} (record {place.record + offset})"
        if item.error is not None:
            yield place.record + offset, RecordError(f"{where}: {item.error}")
        else:
            yield place.record + offset, _parsed(data[item.start : item.end], where, with_bom=False)


def read_lines(lines: Iterable[str | bytes], place: Place) -> Iterator[Record]:
    """Records of lines, the first of which is at `place`; blank lines are numbered, and skipped.

    >>> [number for number, _ in read_lines(['{"text": "a"}', "", '{"text": "b"}'], Place(name="a.jsonl"))]
    [0, 2]
    """
    for offset, line in enumerate(lines):
        if line.strip():
            number = place.first + offset
            where = f"{place.name}, line {number + 1} (record {place.record + offset})"
            yield place.record + offset, _parsed(line, where, with_bom=number == 0)


def _parsed(text: str | bytes, where: str, *, with_bom: bool) -> Request | InputError:
    data: object = None
    try:
        data = _decoded(text, with_bom=with_bom)
        return parse_record(data)
    except RecordError as error:
        return _located(error, data, where)


def _decoded(given: str | bytes, *, with_bom: bool) -> object:
    try:
        text = given if isinstance(given, str) else given.decode()
        return json.loads(
            text.removeprefix(_BOM) if with_bom else text, object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError as error:
        raise RecordError(f"found bytes that are not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise RecordError(
            f"found text that is not JSON ({error.msg} at character {error.pos}), expected one object per line"
        ) from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, brackets nested as deep
        raise RecordError(f"found JSON that cannot be read ({error}); shorten its number, or nest it less") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RecordError(f"found the key {twice!a} twice in one object, expected each key once")
    return found


def _refuse_constant(word: str) -> object:
    raise RecordError(f"found {word}, which is no JSON, expected a number or null")


def read_rows(
    path: Path, place: Place, *, groups: Sequence[int] | None = None, skip: int = 0, count: int | None = None
) -> Iterator[Record]:
    """Records of a Parquet table's rows, the first of which is at `place`.

    Without options all rows are read; else those of the row groups `groups`, without the first `skip` of these rows,
    and `count` of them. Raises RewardModelError when the file is not a readable table.
    """
    pyarrow, parquet = import_pyarrow(path)
    end = None if count is None else skip + count
    try:
        with path.open("rb") as source, parquet.ParquetFile(source) as file:
            for offset, row in enumerate(islice(table_rows(pyarrow, file, groups, skip), skip, end)):
                where = f"{place.name}, row {place.first + offset + 1} (record {place.record + offset})"
                yield place.record + offset, _parsed_row(row, where)
    except (pyarrow.ArrowException, OSError) as error:
        raise RewardModelError(f"{path}: found no readable Parquet table ({error}); write the file again") from error


def _parsed_row(row: Row | RecordError, where: str) -> Request | InputError:
    try:
        return _located(row, None, where) if isinstance(row, RecordError) else parse_record(row)
    except RecordError as error:
        return _located(error, row, where)


def shown_name(path: Path) -> str:
    """The file's name for messages; bytes that are not UTF-8 appear as escapes.

    >>> shown_name(Path("data/records.jsonl"))
    'records.jsonl'
    """
    return os.fsencode(path.name).decode(errors="backslashreplace")


def _located(error: RecordError, data: object, where: str) -> RecordError:
    """The error with its place in front, and with the record's own id where that can be read."""
    located = RecordError(f"{where}: {error}")
    located.record_id = error.record_id if data is None else identity_of(data)
    return located
