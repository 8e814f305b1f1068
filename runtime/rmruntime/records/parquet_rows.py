"""Rows of a Parquet table as Python objects, and an error in place of a row that cannot be read."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import Any

from rmruntime.errors import RecordError
from rmruntime.records.keys import KNOWN_KEYS, QUERY_KEYS, near_miss
from rmruntime.records.requests import identity_of

BATCH_ROWS = 1024
Row = dict[str, Any]


def table_rows(pyarrow: Any, file: Any, groups: Sequence[int] | None, skip: int) -> Iterator[Row | RecordError]:
    """The rows of the row groups `groups` (None: of all), with only the columns that records are made of.

    The first `skip` rows are not needed: they may come out empty, which is faster. Raises pyarrow's own errors for a
    damaged file.
    """
    names = file.schema_arrow.names
    columns = sorted(name for name in {*names} if name in KNOWN_KEYS or near_miss(name) or near_miss(name, QUERY_KEYS))
    batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns, row_groups=groups)
    twice = [name for name, count in Counter(names).items() if count > 1]
    seen = 0
    for batch in batches:
        seen += batch.num_rows
        if seen <= skip:
            yield from repeat({}, batch.num_rows)
        elif twice:
            error = RecordError(f"found the column {twice[0]!a} twice in the table, expected each column once")
            yield from repeat(error, batch.num_rows)
        else:
            yield from _rows(pyarrow, batch)


def _rows(pyarrow: Any, batch: Any) -> Iterable[Row | RecordError]:
    failures = _no_object(pyarrow)
    try:
        rows: list[Row | RecordError] = batch.to_pylist()
    except failures:  # pyarrow does not report which row it was
        rows = [_row(batch, index, failures) for index in range(batch.num_rows)]
    return rows


def _row(batch: Any, index: int, failures: tuple[type[Exception], ...]) -> Row | RecordError:
    row: Row = {}
    faults = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[index].as_py()
        except failures as error:
            faults.append(f"{name}: found a {column.type!s:.60} that cannot be read ({error!s:.120})")
    if not faults:
        return row
    fault = RecordError("; ".join(faults))
    fault.record_id = identity_of(row)
    return fault


def _no_object(pyarrow: Any) -> tuple[type[Exception], ...]:
    """The exceptions that pyarrow raises for a value that cannot become a Python object.

    Such values are text that is not UTF-8, times and durations out of range, unknown time zones, and structs with two
    fields of one name.
    """
    return (ValueError, ArithmeticError, LookupError, TypeError, ImportError, pyarrow.ArrowException)
