"""The past of a pass whose keys and values stay in pages of the device, where attention finds them by number.

Nothing is copied to keep what a pass computed: the pages that it wrote are held by the prefix cache, and are free again
once the cache and all passes have let go of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from rmruntime.backends.base import Feeds, Outputs
from rmruntime.batching.cached_paging import OwnPages, own_pages, with_real_pages
from rmruntime.batching.past import KeyLayout, PassPast
from rmruntime.batching.prefix_cache import CachedPrefix, Copied
from rmruntime.bundle.graph_names import PAGE_SLOTS
from rmruntime.executors.page_pool import Page, PagePool
from rmruntime.sequences import Ints


@dataclass(frozen=True)
class PageBlock:
    """Keys and values of a sequence's tokens `begin` to `end` - 1: `pages`, the first of which has position `begin`.

    `joined`: the block before it holds its first page too, which counts there.
    """

    begin: int
    end: int
    pages: tuple[Page, ...]
    pool: PagePool
    joined: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return 1, self.end - self.begin

    @property
    def nbytes(self) -> int:
        return (len(self.pages) - self.joined) * self.pool.page_bytes

    def __getitem__(self, key: tuple[slice, slice]) -> "PageBlock":
        start, stop, _ = key[1].indices(self.end - self.begin)
        begin, end, size = self.begin + start, self.begin + stop, self.pool.page_size
        first = begin // size - self.begin // size
        pages = self.pages[first : first + _page_count(begin, end, size)]
        joined = self.joined if start == 0 else begin % size != 0
        return PageBlock(begin, end, pages, self.pool, joined)

    def copy(self) -> "PageBlock":
        """The same: pages are never changed."""
        return self


def _page_count(begin: int, end: int, size: int) -> int:
    """How many pages the positions from `begin` to `end` are in."""
    return -(-end // size) - begin // size


@dataclass
class PassPages:
    """The cached pages that a pass reads, `held`, and those that it writes, once it has begun."""

    held: list[Page]
    written: list[Page] = field(default_factory=list)
    begun: bool = False


@dataclass(frozen=True)
class PagedPast(PassPast):
    """A PassPast whose keys are in pages of `pool`; `forget` lets go of cached ones."""

    pool: PagePool
    forget: Callable[[], bool]
    pages: PassPages

    def completed(self, feeds: Feeds, layout: KeyLayout) -> Feeds:
        count = max(0, int(feeds[PAGE_SLOTS].max()) // self.pool.page_size + 1)
        self.pages.written = self.pool.begin(count, self.forget)
        self.pages.begun = True
        numbers = np.array([page.number for page in (*self.pages.written, *reversed(self.pages.held))])
        return {**feeds, **with_real_pages(feeds, numbers, self.pool.page_size)}

    def release(self) -> None:
        self.pages.held, self.pages.written = [], []
        if self.pages.begun:
            self.pages.begun = False
            self.pool.end()

    def _copied(self, layout: KeyLayout, outputs: Outputs, i: int, begin: int) -> Copied:
        """Nothing is copied: the pages that the pass wrote."""
        own = self._own_pages[i]
        return _Blocks(self.pool, self.pages.written[own.first : own.end], own.whole)

    @cached_property
    def _own_pages(self) -> dict[int, OwnPages]:
        return {own.sequence: own for own in own_pages(self.trie, self.placement, self.pool.page_size)}


class _Blocks:
    """Consecutive blocks of one sequence, whose positions from the page number `whole` on are in `pages`."""

    def __init__(self, pool: PagePool, pages: Sequence[Page], whole: int) -> None:
        self._pool, self._pages, self._whole = pool, pages, whole
        self._last: Page | None = None

    def __call__(self, begin: int, end: int) -> PageBlock:
        size = self._pool.page_size
        first = begin // size - self._whole
        pages = tuple(self._pages[first : first + _page_count(begin, end, size)])
        joined, self._last = pages[0] is self._last, pages[-1]
        return PageBlock(begin, end, pages, self._pool, joined)


def paged_past(past: PassPast, pool: PagePool, forget: Callable[[], bool]) -> PagedPast:
    """The same past where keys are in pages; `forget` lets go of cached ones and says whether there were any."""
    pages, held = np.zeros(past.trie.tokens, np.int64), list[Page]()
    places: dict[int, int] = {}
    for path, shared, found in zip(past.trie.paths, past.trie.shared.tolist(), past.prefixes, strict=True):
        for block in _page_blocks(found):
            for page in block.pages:
                if page.number not in places:
                    places[page.number] = len(held)
                    held.append(page)
            begin = max(block.begin, shared)
            if begin < block.end:
                depths = np.arange(begin, block.end)
                numbers = np.array([-1 - places[page.number] for page in block.pages])
                pages[path[depths]] = numbers[depths // pool.page_size - block.begin // pool.page_size]
    return PagedPast(
        past.sequences,
        past.trie,
        [CachedPrefix((), found.length) for found in past.prefixes],  # `held` has their pages, until the pass is over
        replace(past.placement, pages=pages),
        past.kept,
        pool,
        forget,
        PassPages(held),
    )


def page_ends(found: CachedPrefix) -> Ints:
    """For every page that a cached beginning is in, the position after its last token there."""
    ends: dict[int, int] = {}
    for block in _page_blocks(found):
        size = block.pool.page_size
        for place, page in enumerate(block.pages, block.begin // size):
            ends[page.number] = min(block.end, (place + 1) * size)
    return np.array(list(ends.values()), np.int64)


def _page_blocks(found: CachedPrefix) -> Iterator[PageBlock]:
    for block in found.blocks:
        assert isinstance(block, PageBlock)  # a cache of pages has no others
        yield block
