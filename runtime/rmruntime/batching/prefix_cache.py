"""Keys and values of tokens that were computed before, by the tokens before them: what starts alike is computed once.

A radix tree: an edge holds up to BLOCK tokens of a sequence with their keys and values, and branches where sequences
differ. Sequences whose rotary frequencies differ (Backbone.rope_class) have trees of their own. Of what does not fit
into the limit, the edges that were used least recently go first, always ends of a sequence before its beginning; what
is pinned stays.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rmruntime.batching.trie import common_prefix
from rmruntime.sequences import Ints

BLOCK = 256  # tokens of an edge at most: what is split, or evicted, at a time


class KeyBlock(Protocol):
    """Keys and values of n consecutive tokens, [2 * layers, n, features]: an array of the host, or what stands for it.

    Tokens are sliced along the second axis; `copy` may return what shares memory, where that is freed piecewise.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def copy(self) -> Any: ...


Copied = Callable[[int, int], KeyBlock]  # a new block of the tokens from one place of a sequence to another


@dataclass(frozen=True)
class CachedPrefix:
    """The leading tokens of a sequence that need not be computed: `blocks` of consecutive tokens, `length` in all.

    It keeps its blocks, whatever the cache forgets.
    """

    blocks: tuple[KeyBlock, ...] = ()
    length: int = 0


NOTHING = CachedPrefix()


class _Edge:
    """Some tokens after those of the edges before it; the root of a tree has none."""

    __slots__ = ("block", "branches", "ids", "parent", "pins")

    def __init__(self, parent: "_Edge | None", ids: Ints, block: KeyBlock) -> None:
        self.parent, self.ids, self.block = parent, ids, block
        self.branches: dict[int, _Edge] = {}
        self.pins = 0  # those before it have at least as many


class PrefixCache:
    """Blocks of at most `limit` bytes; safe from several threads.

    >>> import numpy as np
    >>> cache = PrefixCache(limit=1 << 20)
    >>> cache.insert(np.array([5, 6, 7]), 0, lambda begin, end: np.zeros((2, end - begin, 8), np.float32))
    >>> [found.length for found in cache.match([np.array([5, 6, 9]), np.array([6])])]
    [2, 0]
    """

    def __init__(self, limit: int, rope_class: Callable[[int], int] | None = None) -> None:
        self.limit = limit
        self._rope_class = rope_class
        self._roots: dict[int, _Edge] = {}
        # What may be forgotten: least recently used first, ends before beginnings.
        self._recent: OrderedDict[_Edge, None] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that are held."""
        return self._nbytes

    def rope_class(self, length: int) -> int:
        """Sequences of one class may share tokens; 0 where the length makes no difference."""
        return 0 if self._rope_class is None else self._rope_class(length)

    def match(self, sequences: Sequence[Ints]) -> list[CachedPrefix]:
        """The longest cached beginning of each sequence, as they are at one moment; counts as use."""
        with self._lock:
            return [self._matched(ids) for ids in sequences]

    def insert(self, ids: Ints, begin: int, copied: Copied, end: int | None = None) -> None:
        """Keep the tokens of a sequence from `begin` to `end` (None: to its own), which were computed.

        `copied` is asked for those not there. Nothing is kept where the tokens before `begin` were forgotten meanwhile.
        """
        end = len(ids) if end is None else end
        with self._lock:
            path = self._walk(ids)
            at = sum(count for _, count in path)
            if at < begin or at >= end:
                return
            edge = self._end_of(path, self.rope_class(len(ids)))
            while at < end:
                stop = min(at + BLOCK, end)
                edge = self._grown(edge, ids[at:stop], copied(at, stop))
                at = stop
                if self._nbytes > self.limit and not self._evicted(keep=edge):
                    self._forget(edge)
                    break

    def forget_oldest(self) -> bool:
        """Forget what was used least recently, up to BLOCK tokens; whether there was anything."""
        with self._lock:
            if not self._recent:
                return False
            self._forget(next(iter(self._recent)))
            return True

    def pin(self, ids: Ints) -> int:
        """Keep what is cached of a sequence's beginning until `unpin` is called as often; the number of its tokens."""
        with self._lock:
            path = self._walk(ids)
            edge = self._end_of(path, self.rope_class(len(ids))) if path else None
            while edge is not None and edge.parent is not None:
                self._recent.pop(edge, None)
                edge.pins += 1
                edge = edge.parent
            return sum(count for _, count in path)

    def unpin(self, ids: Ints, length: int) -> None:
        """Undo one `pin` of the sequence, which returned that length. What it kept may be forgotten again."""
        with self._lock:
            last, at = None, 0
            for edge, count in self._walk(ids):
                at += count
                if at <= length and edge.pins:  # none has any once all was cleared
                    edge.pins -= 1
                    last = edge
            if last is not None:
                self._touch(last)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            edges = list(self._roots.values())
            while edges:  # they know one another, and memory of a device must not wait for the garbage collector
                edge = edges.pop()
                edges += edge.branches.values()
                edge.branches = {}
            self._roots, self._nbytes = {}, 0
            self._recent.clear()

    def _matched(self, ids: Ints) -> CachedPrefix:
        path = self._walk(ids)
        if not path:
            return NOTHING
        self._touch(path[-1][0])
        blocks = tuple(edge.block if count == len(edge.ids) else edge.block[:, :count] for edge, count in path)
        return CachedPrefix(blocks, sum(count for _, count in path))

    def _walk(self, ids: Ints) -> list[tuple[_Edge, int]]:
        """The edges that a sequence begins with, and how many tokens of each: all, but maybe of the last."""
        edge, at, path = self._roots.get(self.rope_class(len(ids))), 0, []
        while edge is not None and at < len(ids):
            edge = edge.branches.get(int(ids[at]))
            if edge is None:
                break
            count = common_prefix(edge.ids, ids[at : at + len(edge.ids)])
            path.append((edge, count))
            if count < len(edge.ids):
                break
            at += count
        return path

    def _end_of(self, path: list[tuple[_Edge, int]], rope_class: int) -> _Edge:
        """The edge after which a sequence goes on; one that it leaves half-way is split."""
        if not path:
            if rope_class not in self._roots:
                empty: Any = None
                self._roots[rope_class] = _Edge(None, empty, empty)
            return self._roots[rope_class]
        edge, count = path[-1]
        return edge if count == len(edge.ids) else self._split(edge, count)

    def _split(self, edge: _Edge, count: int) -> _Edge:
        """The first `count` tokens as an edge of their own; copies, so that the rest can be freed alone."""
        parent = edge.parent
        assert parent is not None  # roots have no tokens
        first = _Edge(parent, edge.ids[:count].copy(), edge.block[:, :count].copy())
        edge.ids, edge.block, edge.parent = edge.ids[count:].copy(), edge.block[:, count:].copy(), first
        first.branches = {int(edge.ids[0]): edge}
        first.pins = edge.pins
        parent.branches[int(first.ids[0])] = first
        self._touch(first)
        return first

    def _grown(self, end: _Edge, ids: Ints, block: KeyBlock) -> _Edge:
        edge = _Edge(end, ids.copy(), block)
        end.branches[int(ids[0])] = edge
        self._nbytes += block.nbytes
        self._touch(edge)
        return edge

    def _touch(self, edge: _Edge) -> None:
        """Edges before it come after it in the order: whoever is first in the order has nothing behind it."""
        step: _Edge | None = edge
        while step is not None and step.parent is not None and not step.pins:
            self._recent[step] = None
            self._recent.move_to_end(step)
            step = step.parent

    def _evicted(self, keep: _Edge) -> bool:
        """Whether it was enough to forget others than the sequence that ends with `keep`."""
        while self._nbytes > self.limit:
            oldest = next(iter(self._recent))
            if oldest is keep:  # all others are on its way: they were touched after it
                return False
            self._forget(oldest)
        return True

    def _forget(self, edge: _Edge) -> None:
        del self._recent[edge]
        self._nbytes -= edge.block.nbytes
        parent = edge.parent
        assert parent is not None
        del parent.branches[int(edge.ids[0])]
        if parent.parent is None and not parent.branches:
            self._roots = {known: root for known, root in self._roots.items() if root is not parent}
