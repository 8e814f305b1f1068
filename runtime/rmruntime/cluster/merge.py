"""What is done with the shards when all are written: one merged file, or the same columns in all tables."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rmruntime.errors import ClusterError
from rmruntime.records.pending_file import PendingFile
from rmruntime.records.reader import import_pyarrow
from rmruntime.records.writer import open_writer


def merge_shards(shards: Sequence[Path], target: str) -> None:
    """One file of all records, byte for byte what a run without a cluster writes."""
    with open_writer(target) as writer:
        for shard in shards:
            with shard.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    writer.write(json.loads(line))


def align_columns(shards: Sequence[Path]) -> Iterator[int]:
    """Give all tables the same columns and types, so that their folder is one table; indices of those that changed."""
    pyarrow, parquet = import_pyarrow(shards[0])
    try:
        schemas = [_schema(parquet, shard) for shard in shards]
        schema = pyarrow.unify_schemas([_plain(pyarrow, s, schemas) for s in schemas], promote_options="permissive")
        for index, (shard, found) in enumerate(zip(shards, schemas, strict=True)):
            if found != schema:
                _rewrite(pyarrow, parquet, shard, schema)
                yield index
    except (pyarrow.ArrowException, OSError) as error:
        raise ClusterError(f"{shards[0].parent}: the shards cannot be given the same columns ({error})") from error


def _schema(parquet: Any, shard: Path) -> Any:
    with shard.open("rb") as file:  # by itself: a path that is no UTF-8 is none for pyarrow
        return parquet.read_schema(file)


def _rewrite(pyarrow: Any, parquet: Any, shard: Path, schema: Any) -> None:
    with shard.open("rb") as file:
        table = _aligned(pyarrow, parquet.read_table(file, partitioning=None), schema)
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    pending = PendingFile(shard)
    try:
        pending.write(memoryview(sink.getvalue()))
        pending.finish()
    finally:
        pending.discard()


def _plain(pyarrow: Any, schema: Any, schemas: Sequence[Any]) -> Any:
    """The schema, with ids as text where the tables' ids have several types, as in one table."""
    types = {s.field("id").type for s in schemas if "id" in s.names}
    if len(types) < 2 or "id" not in schema.names:
        return schema
    return schema.set(schema.get_field_index("id"), pyarrow.field("id", pyarrow.string()))


def _aligned(pyarrow: Any, table: Any, schema: Any) -> Any:
    have = set(table.column_names)
    columns = [
        table[field.name].cast(field.type) if field.name in have else pyarrow.nulls(len(table), field.type)
        for field in schema
    ]
    return pyarrow.table(columns, schema=schema)
