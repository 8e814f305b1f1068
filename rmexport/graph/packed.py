"""The inputs of packed graphs: the tokens of a trie, and the attention rows or pages where they find their keys."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from rmexport.graph.paged import PageTable, declare_page_table
from rmexport.graph.writer import GraphWriter
from rmruntime.bundle.graph_names import (
    INPUT_IDS,
    POSITION_IDS,
    READ_INDEX,
    READ_ROWS,
    READ_UNPACK_INDEX,
    SCORED,
    TOKENS,
    UNPACK_INDEX,
    RowNames,
    row_names,
)


@dataclass(frozen=True)
class AttentionRows:
    """Index inputs of one set of attention rows, as `rmruntime.bundle.graph_names` describes them.

    `name` tells the sets of a graph apart. `take` [tokens of the set] selects the set out of all tokens, None when the
    set is all of them. `others` are further groups of rows with lengths of their own, whose flattened rows follow
    these; they share this group's unpack_index. Where tokens find their keys by `pages`, the row inputs are None, and
    a set's queries are those of all tokens.
    """

    name: str
    query_index: ir.Value | None
    query_positions: ir.Value | None
    key_index: ir.Value | None
    key_positions: ir.Value | None
    unpack_index: ir.Value | None
    take: ir.Value | None
    others: tuple["AttentionRows", ...] = ()
    pages: PageTable | None = None


@dataclass(frozen=True)
class PackedInputs:
    """All inputs of a packed graph but the head's: T trie tokens, and the N scored ones among them."""

    input_ids: ir.Value
    position_ids: ir.Value
    all_rows: AttentionRows
    read_rows: AttentionRows


def declare_packed_inputs(
    writer: GraphWriter, row_groups: int = 1, *, chunked: bool = False, paged: bool = False
) -> PackedInputs:
    """All inputs; `row_groups` groups of attention rows, the first without a number in its inputs' names.

    `chunked`: input_ids comes as [chunks, tokens of each], T tokens in all, which tells how to cut the others.
    `paged`: all tokens find their keys by pages, not rows.

    >>> declare_packed_inputs(GraphWriter(None)).all_rows.key_index.name
    'key_index'
    """
    input_ids = writer.input(INPUT_IDS, ["C", "T/C"] if chunked else [TOKENS])
    position_ids = writer.input(POSITION_IDS, [TOKENS])
    if paged:
        every = _declare_pages(writer)
        return PackedInputs(input_ids, position_ids, every, _scored_pages(writer, every))
    all_rows = _declare_groups(writer, row_groups)
    take = writer.input(READ_INDEX, [SCORED])
    read_rows = _declare_rows(writer, READ_ROWS)
    unpack_index = writer.input(READ_UNPACK_INDEX, [SCORED])
    return PackedInputs(input_ids, position_ids, all_rows, replace(read_rows, take=take, unpack_index=unpack_index))


def _declare_groups(writer: GraphWriter, row_groups: int) -> AttentionRows:
    others = tuple(_declare_rows(writer, row_names(group)) for group in range(1, row_groups))
    first = _declare_rows(writer, row_names())
    return replace(first, unpack_index=writer.input(UNPACK_INDEX, [TOKENS]), others=others)


def _declare_pages(writer: GraphWriter) -> AttentionRows:
    table = declare_page_table(writer)
    unpack_index = writer.input(UNPACK_INDEX, [TOKENS])
    return AttentionRows("pages", None, None, None, None, unpack_index, None, pages=table)


def _scored_pages(writer: GraphWriter, every: AttentionRows) -> AttentionRows:
    """The scored tokens' outputs out of all tokens': their queries stand where all do."""
    take = writer.input(READ_INDEX, [SCORED])
    return replace(every, take=take, unpack_index=writer.op("Gather", every.unpack_index, take))


def _declare_rows(writer: GraphWriter, names: RowNames) -> AttentionRows:
    return AttentionRows(
        names.query_index,
        writer.input(names.query_index, names.query_dims),
        writer.input(names.query_positions, names.query_dims),
        writer.input(names.key_index, names.key_dims),
        writer.input(names.key_positions, names.key_dims),
        unpack_index=None,
        take=None,
    )
