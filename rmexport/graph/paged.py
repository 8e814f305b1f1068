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


@dataclass(frozen=True)
class PageTable:
    """Index inputs over A slots: the tokens of B edges, some more than once.

    tokens [A]: the trie token in each slot. starts [B + 1]: where each edge's slots begin. past [B]: how many positions
    before them an edge reads from pages. table [B, M]: the page of each edge's positions 0, page size, 2 * page size
    and so on. bounds [2], which the op reads on the host: the most slots of an edge, the most positions.
    """

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
    """Inputs `page_tokens`, `page_starts`, `page_past`, `page_table`, `page_bounds`; int32 where the op reads them.

    >>> declare_page_table(GraphWriter(None)).past.name
    'page_past'
    """
    return PageTable(
        writer.input("page_tokens", ["A"]),
        writer.input("page_starts", ["B+1"], "int32"),
        writer.input("page_past", ["B"], "int32"),
        writer.input("page_table", ["B", "M"], "int32"),
        writer.input("page_bounds", [2], "int32"),
    )


def declare_page_buffers(writer: GraphWriter, page_size: int, kv_heads: int, head_dim: int, dtype: str) -> PageBuffers:
    """Inputs `key_pages` and `value_pages`: as many pages as `page_table` names, with whatever is in them.

    >>> declare_page_buffers(GraphWriter(None), 256, 8, 128, "bf16").keys.name
    'key_pages'
    """
    dims = ("pages", page_size, kv_heads, head_dim)
    return PageBuffers(writer.input("key_pages", dims, dtype), writer.input("value_pages", dims, dtype))
