"""Works on the finished shards: merges them into one file, or gives all tables the same columns."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rmruntime.errors import ClusterError
from rmruntime.records.pending_file import PendingFile
from rmruntime.records.reader import import_pyarrow
from rmruntime.records.writer import open_writer


def merge_shards(shards: Sequence[Path], target: str) -> None:
    """Write the records of all JSON-lines shards to the file `target`, the same bytes as a run without a cluster.

    >>> for name in ("part-0.jsonl", "part-1.jsonl"):
    ...     _ = Path(name).write_text('{"id": 1, "score": 0.5}\\n')
    >>> merge_shards([Path("part-0.jsonl"), Path("part-1.jsonl")], "all.jsonl")
    >>> len(Path("all.jsonl").read_text().splitlines())
    2
    """
    with open_writer(target) as writer:
        for shard in shards:
            with shard.open(encoding="utf-8", newline="\n") as lines:
                for line in lines:
                    writer.write(json.loads(line))


def align_columns(shards: Sequence[Path]) -> Iterator[int]:
    """Give all Parquet shards the same columns and types, so that their folder reads as one table.

    Yields the index of each shard that it rewrote. Raises ClusterError where no common type exists.
    """
    pyarrow, parquet = import_pyarrow(shards[0])
    try:
        schemas = [_schema(parquet, shard) for shard in shards]
        schema = pyarrow.unify_schemas([_plain(pyarrow, s, schemas) for s in schemas], promote_options="permissive")
        for index, (shard, found) in enumerate(zip(shards, schemas, strict=True)):
            if found != schema:
                _rewrite(pyarrow, parquet, shard, schema)
                yield index
    except (pyarrow.ArrowException, OSError) as error:
        raise ClusterError(
            f"{shards[0].parent}: the shards cannot be given the same columns ({error}); read them one by one, or "
            "score again with --shards jsonl --overwrite"
        ) from error


def _schema(parquet: Any, shard: Path) -> Any:
    with shard.open("rb") as file:  # opened here, because pyarrow takes only paths that are UTF-8
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
