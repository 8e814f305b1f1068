"""The packed token trie's graph inputs and the index arithmetic that attention by head rows needs.

Head rows: a row holds the queries of one block as `[kv heads, queries x group, head_dim]`, gathered in one step from
`[tokens x heads, head_dim]`, so that grouped-query attention needs neither Tile nor Transpose.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from rmexport.graph.paged import PageTable, declare_page_table
from rmexport.graph.writer import GraphWriter

MASKED = -30000.0  # below any score, and finite in fp16


@dataclass(frozen=True)
class AttentionRows:
    """Index inputs of one set of attention rows.

    query_index, query_positions [R, Sq]; key_index, key_positions [R, Sk]; unpack_index [tokens of the set]: where
    each token's output lies in the flattened rows. `take` [tokens of the set] selects the set out of all tokens, None
    when the set is all of them. `others` are further groups of rows with lengths of their own, whose flattened rows
    follow these; they share this group's unpack_index.

    Where all tokens find their keys by `pages`, there are no rows: the row inputs are None, and unpack_index [tokens of
    the set] says where each token's output lies among those of the pages' slots.
    """

    prefix: str
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
    """All token-level inputs of a packed graph: T trie tokens, and the N of them that a head reads."""

    input_ids: ir.Value
    position_ids: ir.Value
    all_rows: AttentionRows
    read_rows: AttentionRows


@dataclass(frozen=True)
class HeadRows:
    """Expanded indices and additive mask of one set of rows, shared by all layers that attend alike.

    queries [R, KV, Sq*G], keys [R, KV, Sk], bias [R, 1, Sq*G, Sk]; unpack [tokens, H] of all groups, at the first.
    """

    queries: ir.Value
    keys: ir.Value
    unpack: ir.Value | None
    bias: ir.Value


def declare_packed_inputs(
    writer: GraphWriter, row_groups: int = 1, *, chunked: bool = False, paged: bool = False
) -> PackedInputs:
    """All inputs; `row_groups` groups of attention rows, the first without a number in its inputs' names.

    `chunked`: input_ids comes as [chunks, tokens of each], T tokens in all, which tells how to cut the others.
    `paged`: all tokens find their keys by pages, not rows.

    >>> declare_packed_inputs(GraphWriter(None)).all_rows.key_index.name
    'key_index'
    """
    input_ids = writer.input("input_ids", ["C", "T/C"] if chunked else ["T"])
    position_ids = writer.input("position_ids", ["T"])
    all_rows = _declare_pages(writer) if paged else _declare_groups(writer, row_groups)
    read_index = writer.input("read_index", ["N"])
    return PackedInputs(input_ids, position_ids, all_rows, _declare_rows(writer, "read_", "N", read_index))


def _declare_groups(writer: GraphWriter, row_groups: int) -> AttentionRows:
    others = tuple(_declare_rows(writer, "", None, None, f"_{i}") for i in range(1, row_groups))
    return replace(_declare_rows(writer, "", "T", None), others=others)


def _declare_pages(writer: GraphWriter) -> AttentionRows:
    table = declare_page_table(writer)
    return AttentionRows("all_", None, None, None, None, writer.input("unpack_index", ["T"]), None, pages=table)


def _declare_rows(
    writer: GraphWriter, prefix: str, tokens: str | None, take: ir.Value | None, suffix: str = ""
) -> AttentionRows:
    rows, queries, keys = (f"{prefix}{dim}{suffix}" for dim in ("R", "Sq", "Sk"))
    return AttentionRows(
        f"{prefix or 'all_'}{suffix}",
        writer.input(f"{prefix}query_index{suffix}", [rows, queries]),
        writer.input(f"{prefix}query_positions{suffix}", [rows, queries]),
        writer.input(f"{prefix}key_index{suffix}", [rows, keys]),
        writer.input(f"{prefix}key_positions{suffix}", [rows, keys]),
        writer.input(f"{prefix}unpack_index", [tokens]) if tokens else None,
        take,
    )


def expand_head_rows(
    writer: GraphWriter, rows: AttentionRows, heads: int, kv_heads: int, window: int | None, dtype: str
) -> HeadRows:
    """Indices per (token, head) and the additive mask; computed once a pass.

    >>> w = GraphWriter(None)
    >>> head_rows = expand_head_rows(w, declare_packed_inputs(w).all_rows, 8, 2, None, "fp32")
    >>> head_rows.queries.producer().op_type
    'Reshape'
    """
    w, group = writer, heads // kv_heads
    axis1, axis2, axis13 = w.constant("axes_1", [1]), w.constant("axes_2", [2]), w.constant("axes_1_3", [1, 3])
    n_kv, n_group, rest = w.constant("n_kv", [kv_heads]), w.constant("n_group", [group]), w.constant("rest", [-1])
    n_rows = w.op("Shape", rows.query_index, start=0, end=1)
    n_queries, n_keys = (w.op("Shape", x, start=1, end=2) for x in (rows.query_index, rows.key_index))
    head_of = w.constant("head_of", np.arange(heads).reshape(1, kv_heads, 1, group))
    q = w.op("Mul", w.op("Unsqueeze", rows.query_index, axis13), w.constant("n_heads", [heads]))
    q = w.op("Reshape", w.op("Add", q, head_of), w.op("Concat", n_rows, n_kv, rest, axis=0))
    k = w.op("Mul", w.op("Unsqueeze", rows.key_index, axis1), n_kv)
    k = w.op("Add", k, w.constant("kv_head_of", np.arange(kv_heads).reshape(1, kv_heads, 1)))
    bias = w.op("Unsqueeze", additive_mask(w, rows, window, dtype), axis2)  # [R, Sq, 1, Sk]
    bias = w.op("Expand", bias, w.op("Concat", n_rows, n_queries, n_group, n_keys, axis=0))
    bias = w.op("Reshape", bias, w.op("Concat", n_rows, rest, n_keys, axis=0))
    unpack = _head_places(w, rows, heads, kv_heads) if rows.unpack_index is not None else None
    return HeadRows(q, k, unpack, w.op("Unsqueeze", bias, axis1))


def _head_places(w: GraphWriter, rows: AttentionRows, heads: int, kv_heads: int) -> ir.Value:
    """[tokens, H]: where each token's heads lie among the outputs of all groups, flattened to [., head_dim].

    A group's outputs are numbered in their own order, [R, KV, Sq, G], and the numbers turned to [R * Sq, H].
    """
    grouped, turned = (
        w.constant("heads_split", [0, kv_heads, -1, heads // kv_heads]),
        w.constant("by_heads", [-1, heads]),
    )
    begin, one, size = w.constant("range_begin", 0), w.constant("range_step", 1), w.constant("n_all_heads", heads)
    tables = []
    for group in (rows, *rows.others):
        end = w.op("Add", begin, w.op("Mul", w.op("Size", group.query_index), size))
        numbers = w.op("Reshape", w.op("Range", begin, end, one), _rows_first(w, group))
        numbers = w.op("Transpose", w.op("Reshape", numbers, grouped), perm=[0, 2, 1, 3])
        tables.append(w.op("Reshape", numbers, turned))
        begin = end
    table = w.op("Concat", *tables, axis=0) if len(tables) > 1 else tables[0]
    return w.op("Gather", table, rows.unpack_index)


def _rows_first(w: GraphWriter, group: AttentionRows) -> ir.Value:
    """The shape [R, Sq * H]."""
    n_rows = w.op("Shape", group.query_index, start=0, end=1)
    return w.op("Concat", n_rows, w.constant("rest", [-1]), axis=0)


def additive_mask(w: GraphWriter, rows: AttentionRows, window: int | None, dtype: str) -> ir.Value:
    """[R, Sq, Sk]: 0 where the key may be seen, MASKED elsewhere.

    >>> w = GraphWriter(None)
    >>> additive_mask(w, declare_packed_inputs(w).all_rows, None, "fp32").producer().op_type
    'Where'
    """
    seen = visible_keys(w, rows, window)
    return w.op("Where", seen, w.constant("zero", 0.0, dtype), w.constant("masked", MASKED, dtype))


def visible_keys(w: GraphWriter, rows: AttentionRows, window: int | None) -> ir.Value:
    """[R, Sq, Sk] booleans: causal, and inside the window if there is one. Padding keys stand beyond any query.

    >>> w = GraphWriter(None)
    >>> visible_keys(w, declare_packed_inputs(w).all_rows, 4096).producer().op_type
    'And'
    """
    key = w.op("Unsqueeze", rows.key_positions, w.constant("axes_1", [1]))
    query = w.op("Unsqueeze", rows.query_positions, w.constant("axes_2", [2]))
    seen = w.op("LessOrEqual", key, query)
    if window is None:
        return seen
    # HF: a query sees itself and the window - 1 tokens before it.
    near = w.op("Greater", key, w.op("Sub", query, w.constant(f"window_{window}", window)))
    return w.op("And", seen, near)
