"""Attention over a packed trie: its numbers, masks, softcap, and the index arithmetic of attention by head rows.

Head rows: a row holds the queries of one block as `[kv heads, queries x group, head_dim]`, gathered in one step from
`[tokens x heads, head_dim]`, so that grouped-query attention needs neither Tile nor Transpose.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from rmexport.graph.packed import AttentionRows
from rmexport.graph.writer import GraphWriter

MASKED = -30000.0  # below any score, and finite in fp16


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """The numbers of one attention layer: query heads, key/value heads, head size, score scale.

    `window` is the sliding window in tokens; scores become `softcap * tanh(score / softcap)`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class HeadRows:
    """Expanded indices and additive mask of one set of rows, shared by all layers that attend alike.

    queries [R, KV, Sq*G], keys [R, KV, Sk], bias [R, 1, Sq*G, Sk]; unpack [tokens, H] of all groups, at the first.
    """

    queries: ir.Value
    keys: ir.Value
    unpack: ir.Value | None
    bias: ir.Value


def head_rows(w: GraphWriter, rows: AttentionRows, shape: AttentionShape, dtype: str) -> HeadRows:
    """Indices per (token, head) and the additive mask in `dtype`, made once for all layers that attend alike.

    >>> from rmexport.graph.packed import declare_packed_inputs
    >>> w, shape = GraphWriter(None), AttentionShape(heads=8, kv_heads=2, head_dim=64, scale=0.125)
    >>> head_rows(w, declare_packed_inputs(w).all_rows, shape, "fp32").queries.producer().op_type
    'Reshape'
    """
    key = ("head rows", rows.name, shape.heads, shape.kv_heads, shape.window)
    return w.shared(key, lambda: _expand(w, rows, shape, dtype))


def _expand(w: GraphWriter, rows: AttentionRows, shape: AttentionShape, dtype: str) -> HeadRows:
    heads, kv_heads, group = shape.heads, shape.kv_heads, shape.heads // shape.kv_heads
    axis1, axis2, axis13 = w.constant("axes_1", [1]), w.constant("axes_2", [2]), w.constant("axes_1_3", [1, 3])
    n_kv, n_group, rest = w.constant("n_kv", [kv_heads]), w.constant("n_group", [group]), w.constant("rest", [-1])
    n_rows = w.op("Shape", rows.query_index, start=0, end=1)
    n_queries, n_keys = (w.op("Shape", x, start=1, end=2) for x in (rows.query_index, rows.key_index))
    head_of = w.constant("head_of", np.arange(heads).reshape(1, kv_heads, 1, group))
    q = w.op("Mul", w.op("Unsqueeze", rows.query_index, axis13), w.constant("n_heads", [heads]))
    q = w.op("Reshape", w.op("Add", q, head_of), w.op("Concat", n_rows, n_kv, rest, axis=0))
    k = w.op("Mul", w.op("Unsqueeze", rows.key_index, axis1), n_kv)
    k = w.op("Add", k, w.constant("kv_head_of", np.arange(kv_heads).reshape(1, kv_heads, 1)))
    bias = w.op("Unsqueeze", additive_mask(w, rows, shape.window, dtype), axis2)  # [R, Sq, 1, Sk]
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

    >>> from rmexport.graph.packed import declare_packed_inputs
    >>> w = GraphWriter(None)
    >>> additive_mask(w, declare_packed_inputs(w).all_rows, None, "fp32").producer().op_type
    'Where'
    """
    seen = visible_keys(w, rows, window)
    return w.op("Where", seen, w.constant("zero", 0.0, dtype), w.constant("masked", MASKED, dtype))


def visible_keys(w: GraphWriter, rows: AttentionRows, window: int | None) -> ir.Value:
    """[R, Sq, Sk] booleans: causal, and inside the window if there is one. Padding keys stand beyond any query.

    >>> from rmexport.graph.packed import declare_packed_inputs
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


def capped(w: GraphWriter, scores: ir.Value, softcap: float | None, dtype: str) -> ir.Value:
    """`softcap * tanh(scores / softcap)` of scores in `dtype`, or the scores as they are without one.

    >>> w = GraphWriter(None)
    >>> capped(w, w.input("scores", ["N"], "fp32"), 50.0, "fp32").producer().op_type
    'Mul'
    """
    if softcap is None:
        return scores
    cap = w.constant(f"softcap_{softcap}", softcap, dtype)
    return w.op("Mul", w.op("Tanh", w.op("Div", scores, cap)), cap)
