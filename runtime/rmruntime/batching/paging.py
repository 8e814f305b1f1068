"""The index arrays of attention by pages (`Graph.attention` "pages"): edges of the token trie, and where keys lie.

One edge is what a sequence adds to the trie. Its first positions are those of its parents: whole pages of them are
shared through the page table, what the parents have beyond is fed again, so that an edge writes to its own pages only.
"""

from dataclasses import dataclass

import numpy as np

from rmruntime.batching.trie import TokenTrie
from rmruntime.bundle.graph_names import (
    PAGE_BOUNDS,
    PAGE_PAST,
    PAGE_STARTS,
    PAGE_TABLE,
    PAGE_TOKENS,
    UNPACK_INDEX,
)
from rmruntime.sequences import Ints


@dataclass(frozen=True)
class _Edge:
    """`tokens`: the trie tokens fed, from position `past`; `table`: the pages of all positions."""

    tokens: Ints
    past: int
    table: Ints


def page_feeds(trie: TokenTrie, page_size: int) -> dict[str, Ints]:
    """Inputs of a graph that attends by pages, all int64: PAGE_INPUTS without the pages, and UNPACK_INDEX.

    The pages are numbered from 0, so there must be as many as the largest number in PAGE_TABLE, and one more.
    """
    unpack = np.zeros(trie.tokens, np.int64)
    edges = _edges(trie, page_size, unpack)
    starts = np.cumsum([0, *(len(edge.tokens) for edge in edges)])
    table = np.zeros((len(edges), max(len(edge.table) for edge in edges)), np.int64)
    for row, edge in zip(table, edges, strict=True):
        row[: len(edge.table)] = edge.table
    return {
        PAGE_TOKENS: np.concatenate([edge.tokens for edge in edges]),
        PAGE_STARTS: starts,
        PAGE_PAST: np.array([edge.past for edge in edges]),
        PAGE_TABLE: table,
        PAGE_BOUNDS: np.array(
            [max(len(edge.tokens) for edge in edges), max(edge.past + len(edge.tokens) for edge in edges)]
        ),
        UNPACK_INDEX: unpack,
    }


def _edges(trie: TokenTrie, page_size: int, unpack: Ints) -> list[_Edge]:
    """In the order of the trie, so that parents come first; writes each fresh token's slot into `unpack`."""
    page_of = np.zeros(trie.tokens, np.int64)  # where a token's keys were written first
    edges: list[_Edge] = []
    slots = pages = 0
    for i in np.argsort(trie.starts, kind="stable").tolist():
        path, shared = trie.paths[i], int(trie.shared[i])
        if shared == len(path):
            continue  # it adds nothing
        whole = shared // page_size
        past = whole * page_size
        own = np.arange(pages, pages + -(-len(path) // page_size) - whole)
        page_of[path[shared:]] = own[np.arange(shared, len(path)) // page_size - whole]
        unpack[path[shared:]] = slots + np.arange(shared - past, len(path) - past)
        edges.append(_Edge(path[past:], past, np.concatenate([page_of[path[page_size - 1 : past : page_size]], own])))
        slots, pages = slots + len(path) - past, pages + len(own)
    return edges
