"""The inputs of attention by pages: ONNX Runtime's PagedAttention over the packed token trie.

One sequence of the op is an edge of the trie: the tokens that one conversation adds to those before it. Keys and values
are written to pages of a fixed number of positions before any is read (`PrepareQueryAndCache` in ONNX Runtime's
contrib_ops/cuda/bert/paged_attention_impl.cu), so an edge may read its parents' pages in the same pass. The pages that
an edge shares with its parents are whole; what the parents have beyond them is fed again, so that every edge writes
only pages of its own.
"""

from dataclasses import dataclass

import onnx_ir as ir

from rmexport.graph.writer import GraphWriter
from rmruntime.bundle.graph_names import (
    KEY_PAGES,
    PAGE_BOUNDS,
    PAGE_PAST,
    PAGE_STARTS,
    PAGE_TABLE,
    PAGE_TOKENS,
    VALUE_PAGES,
)


@dataclass(frozen=True)
class PageTable:
    """Index inputs over A slots, the tokens of B edges: PAGE_TOKENS and so on of `rmruntime.bundle.graph_names`."""

    tokens: ir.Value
    starts: ir.Value
    past: ir.Value
    table: ir.Value
    bounds: ir.Value


@dataclass(frozen=True)
class PageBuffers:
    """keys and values [pages, page size, kv heads, head_dim], which every layer writes anew; in the compute dtype."""

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


def declare_page_buffers(writer: GraphWriter, page_size: int, kv_heads: int, head_dim: int, dtype: str) -> PageBuffers:
    """Inputs KEY_PAGES and VALUE_PAGES.

    >>> declare_page_buffers(GraphWriter(None), 256, 8, 128, "bf16").keys.name
    'key_pages'
    """
    dims = ("pages", page_size, kv_heads, head_dim)
    return PageBuffers(writer.input(KEY_PAGES, dims, dtype), writer.input(VALUE_PAGES, dims, dtype))
