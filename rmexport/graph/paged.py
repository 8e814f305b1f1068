"""The inputs of attention by pages: ONNX Runtime's PagedAttention over the packed token trie, and its past.

One sequence of the op is an edge of the trie: the tokens that one conversation adds to those before it. Keys and values
are written to pages of a fixed number of positions before any is read (`PrepareQueryAndCache` in ONNX Runtime's
contrib_ops/cuda/bert/paged_attention_impl.cu), so an edge may read its parents' pages in the same pass. The pages that
an edge shares with its parents are whole; what the parents have beyond them is fed again, so that every edge writes
only pages of its own.

In a graph with a past every layer has its own pages, which keep what passes wrote. What earlier tokens have beyond
whole pages is copied to an edge's own page: their keys are gathered from the pages and follow those of the pass.
"""

from dataclasses import dataclass, replace

import onnx_ir as ir

from rmexport.graph.writer import GraphWriter
from rmruntime.bundle.graph_names import (
    KEY_PAGES,
    PAGE_BOUNDS,
    PAGE_COPIES,
    PAGE_PAST,
    PAGE_QUERIES,
    PAGE_SLOTS,
    PAGE_STARTS,
    PAGE_TABLE,
    PAGE_TOKENS,
    VALUE_PAGES,
    layer_pages,
)


@dataclass(frozen=True)
class PagePast:
    """PAGE_COPIES, PAGE_QUERIES and PAGE_SLOTS, and the layer whose pages are meant."""

    copies: ir.Value
    queries: ir.Value
    slots: ir.Value
    layer: int


@dataclass(frozen=True)
class PageTable:
    """Index inputs over A slots, the tokens of B edges: PAGE_TOKENS and so on of `rmruntime.bundle.graph_names`.

    `earlier` is there in a graph with a past.
    """

    tokens: ir.Value
    starts: ir.Value
    past: ir.Value
    table: ir.Value
    bounds: ir.Value
    earlier: PagePast | None = None


@dataclass(frozen=True)
class PageBuffers:
    """keys and values [pages, page size, kv heads, head_dim], in the compute dtype."""

    keys: ir.Value
    values: ir.Value


def declare_page_table(writer: GraphWriter) -> PageTable:
    """The five inputs; int32 where the op reads them.

    >>> declare_page_table(GraphWriter(None)).past.name
    'page_past'
    """
    return PageTable(
        writer.input(PAGE_TOKENS, ["A"]),
        writer.input(PAGE_STARTS, ["B+1"], "int32"),
        writer.input(PAGE_PAST, ["B"], "int32"),
        writer.input(PAGE_TABLE, ["B", "M"], "int32"),
        writer.input(PAGE_BOUNDS, [2], "int32"),
    )


def with_page_past(writer: GraphWriter, table: PageTable, layer: int) -> PageTable:
    """The table for one layer of a graph with a past; its inputs are declared once.

    >>> w = GraphWriter(None)
    >>> with_page_past(w, declare_page_table(w), 3).earlier.slots.name
    'page_slots'
    """
    copies, queries, slots = writer.shared("page past", lambda: _declare_past(writer))
    return replace(table, earlier=PagePast(copies, queries, slots, layer))


def _declare_past(writer: GraphWriter) -> tuple[ir.Value, ir.Value, ir.Value]:
    return (
        writer.input(PAGE_COPIES, ["F"]),
        writer.input(PAGE_QUERIES, ["A"]),
        writer.input(PAGE_SLOTS, ["A"], "int32"),
    )


def declare_page_buffers(
    writer: GraphWriter, page_size: int, kv_heads: int, head_dim: int, dtype: str, layer: int | None = None
) -> PageBuffers:
    """Inputs KEY_PAGES and VALUE_PAGES, or those of one layer.

    >>> declare_page_buffers(GraphWriter(None), 256, 8, 128, "bf16").keys.name
    'key_pages'
    """
    dims = ("pages", page_size, kv_heads, head_dim)
    names = (KEY_PAGES, VALUE_PAGES) if layer is None else layer_pages(layer)
    return PageBuffers(*(writer.input(name, dims, dtype) for name in names))
