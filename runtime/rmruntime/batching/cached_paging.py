"""Attention by pages in a graph with a past: where tokens find keys that earlier passes wrote.

What a sequence computes is an edge, as in `rmruntime.batching.paging`. Whole pages of what is known before it, by an
earlier pass or from its parents, are shared through the page table. Of the rest of what is known, the keys are written
again to the edge's first page: they are those of the pass's own tokens, or copies of cached ones. A cached token that
is computed again, because a head reads it, is an edge by itself, which reads the cached keys and writes none.

Pages that the pass writes are numbered 0, 1, ...; those that are cached -1, -2, ..., as in `Placement.pages`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from rmruntime.batching.trie import Placement, TokenTrie
from rmruntime.bundle.graph_names import (
    PAGE_BOUNDS,
    PAGE_COPIES,
    PAGE_PAST,
    PAGE_QUERIES,
    PAGE_SLOTS,
    PAGE_STARTS,
    PAGE_TABLE,
    PAGE_TOKENS,
    UNPACK_INDEX,
)
from rmruntime.sequences import Ints

UNWRITTEN = -(1 << 40)  # the place of a key that is not written, while pages are not known by their real numbers


@dataclass(frozen=True)
class OwnPages:
    """The pages `first` to `end` - 1, which a sequence writes: of its positions from the page number `whole` on.

    `known` of its tokens have keys elsewhere.
    """

    sequence: int
    known: int
    whole: int
    first: int
    end: int


def own_pages(trie: TokenTrie, placement: Placement, page_size: int) -> Iterator[OwnPages]:
    """For each sequence that adds uncached tokens, in the order of the trie: parents come first."""
    assert placement.pages is not None
    pages = 0
    for i in np.argsort(trie.starts, kind="stable").tolist():
        path = trie.paths[i]
        known = max(int(trie.shared[i]), int((placement.pages[path] < 0).sum()))
        if known < len(path):
            whole = known // page_size
            end = pages - (-len(path) // page_size) - whole
            yield OwnPages(i, known, whole, pages, end)
            pages = end


def cached_page_feeds(trie: TokenTrie, placement: Placement, page_size: int) -> dict[str, Ints]:
    """Inputs of a graph with a past that attends by pages, all int64, without the pages.

    PAGE_TABLE, PAGE_SLOTS and PAGE_COPIES are in the numbers above; `with_real_pages` makes them those of real pages.
    """
    edges = _Edges(trie, placement, page_size)
    for own in own_pages(trie, placement, page_size):
        edges.add_sequence(own)
    edges.add_read_again()
    return edges.feeds()


def with_real_pages(feeds: Mapping[str, Ints], numbers: Ints, page_size: int) -> dict[str, Ints]:
    """The arrays that name pages, with `numbers`: first those of pages that are written, last those of cached ones.

    >>> feeds = {PAGE_TABLE: np.array([[-1, 0]]), PAGE_SLOTS: np.array([5, UNWRITTEN]), PAGE_COPIES: np.array([-3])}
    >>> with_real_pages(feeds, np.array([7, 9]), 4)[PAGE_SLOTS].tolist()
    [37, -1]
    """
    slots = feeds[PAGE_SLOTS]
    written = np.where(slots == UNWRITTEN, 0, slots)
    return {
        PAGE_TABLE: numbers[feeds[PAGE_TABLE]],
        PAGE_SLOTS: np.where(slots == UNWRITTEN, -1, _real(written, numbers, page_size)),
        PAGE_COPIES: _real(feeds[PAGE_COPIES], numbers, page_size),
    }


def _real(places: Ints, numbers: Ints, page_size: int) -> Ints:
    return numbers[places // page_size] * page_size + places % page_size


@dataclass(frozen=True)
class _Edge:
    """Of each slot the computed token (`queries`), the row of its key, and where that is written; `table`: pages."""

    queries: Ints
    keys: Ints
    slots: Ints
    past: int
    table: Ints


@dataclass
class _Edges:
    """The edges of a pass, one after another."""

    trie: TokenTrie
    placement: Placement
    page_size: int
    edges: list[_Edge] = field(default_factory=list)
    copies: list[Ints] = field(default_factory=list)

    def __post_init__(self) -> None:
        pages, count = self.placement.pages, len(self.placement.computed)
        assert pages is not None
        self.cached = pages < 0
        self.page_of = pages.copy()  # where a token's key was written first
        self.unpack = np.zeros(count, np.int64)
        self.slot_count = 0
        self.key_rows = max(2, count)  # a lone token is computed twice; copies follow
        self.computed = np.zeros(self.trie.tokens, bool)
        self.computed[self.placement.computed] = True

    def add_sequence(self, own: OwnPages) -> None:
        """The edge of what a sequence adds."""
        path, size, past = self.trie.paths[own.sequence], self.page_size, own.whole * self.page_size
        fed, depths, pages = path[past:], np.arange(past, len(path)), np.arange(own.first, own.end)
        slots = pages[depths // size - own.whole] * size + depths % size
        again = self.cached[fed]
        keys = self.placement.numbers[fed].copy()
        keys[again] = self._copied(fed[again])
        queries = np.where(self.computed[fed], self.placement.numbers[fed], 0)
        fresh = path[own.known :]
        self.unpack[self.placement.numbers[fresh]] = self.slot_count + depths[own.known - past :] - past
        self.page_of[fresh] = pages[np.arange(own.known, len(path)) // size - own.whole]
        table = np.concatenate([self._whole_pages(path, own.whole), pages])
        self._add(_Edge(queries, keys, slots, past, table))

    def add_read_again(self) -> None:
        """The edges of cached tokens that are computed again."""
        for path, shared in zip(self.trie.paths, self.trie.shared.tolist(), strict=True):
            own = path[shared:]
            for depth in (shared + np.flatnonzero(self.cached[own] & self.computed[own])).tolist():
                number = self.placement.numbers[path[depth : depth + 1]]
                table = np.append(self._whole_pages(path, depth // self.page_size), self.page_of[path[depth]])
                self.unpack[number] = self.slot_count
                self._add(_Edge(number, number, np.array([UNWRITTEN]), depth, table))

    def feeds(self) -> dict[str, Ints]:
        """All arrays."""
        edges, lengths = self.edges, [len(edge.queries) for edge in self.edges]
        table = np.zeros((len(edges), max(len(edge.table) for edge in edges)), np.int64)
        for row, edge in zip(table, edges, strict=True):
            row[: len(edge.table)] = edge.table
        return {
            PAGE_TOKENS: np.concatenate([edge.keys for edge in edges]),
            PAGE_QUERIES: np.concatenate([edge.queries for edge in edges]),
            PAGE_SLOTS: np.concatenate([edge.slots for edge in edges]),
            PAGE_COPIES: np.concatenate(self.copies) if self.copies else np.zeros(1, np.int64),
            PAGE_STARTS: np.cumsum([0, *lengths]),
            PAGE_PAST: np.array([edge.past for edge in edges]),
            PAGE_TABLE: table,
            PAGE_BOUNDS: np.array([max(lengths), max(edge.past + n for edge, n in zip(edges, lengths, strict=True))]),
            UNPACK_INDEX: self.unpack,
        }

    def _add(self, edge: _Edge) -> None:
        self.edges.append(edge)
        self.slot_count += len(edge.queries)

    def _whole_pages(self, path: Ints, count: int) -> Ints:
        """The first pages of a path: whoever wrote the last key of a page wrote those before it too."""
        size = self.page_size
        return self.page_of[path[size - 1 : count * size : size]]

    def _copied(self, tokens: Ints) -> Ints:
        """The rows of these cached tokens' keys, which are copied."""
        first = self.key_rows
        if len(tokens):
            self.copies.append(self.page_of[tokens] * self.page_size + self.trie.position_ids[tokens] % self.page_size)
            self.key_rows += len(tokens)
        return np.arange(first, self.key_rows)
