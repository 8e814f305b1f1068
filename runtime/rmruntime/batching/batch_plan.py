"""Cuts sequences into passes: those that start alike together, long ones with long ones, within a token budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rmruntime.batching.prefix_cache import CachedPrefix
from rmruntime.batching.trie import PrefixOrder
from rmruntime.sequences import Ints

OPEN_BATCHES = 3  # earlier passes that a later family may still fill up: like lengths stay together
WORTH_SHARING = 0.25  # of the shorter sequence: a common chat header alone makes no family
KEYS_PER_TOKEN = 32  # keys that a pass after cached prefixes gathers at most, by its budget of tokens
QUERY_BLOCK = 128  # queries that gather keys together
PASS_COST = 32  # padded tokens that a pass of its own is worth; DeBERTa-v3-base on two cores measures 20 to 30


@dataclass(frozen=True, kw_only=True)
class PageLimit:
    """A pass reads and writes at most `count` pages of `size` keys each.

    `ends` are of each sequence's cached beginning: the position after the last token in each page.
    """

    size: int
    count: int
    ends: Sequence[Ints]


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The indices of the sequences of each pass, and how those of a packed graph share tokens.

    `prefixes` is of all sequences, whatever their passes; None where each is computed in a row of its own. `cached` are
    the beginnings that the passes were planned not to compute, None without a cache.
    """

    batches: Sequence[Sequence[int]]
    prefixes: PrefixOrder | None = None
    cached: Sequence[CachedPrefix] | None = None


def plan_batches(
    sequences: Sequence[Ints],
    max_tokens: int,
    rope_class: Callable[[int], int] | None = None,
    prefixes: PrefixOrder | None = None,
    cached: Sequence[CachedPrefix] | None = None,
    pages: PageLimit | None = None,
) -> list[list[int]]:
    """Indices of the sequences of each pass of a packed graph, longest families first.

    A pass computes at most `max_tokens` trie tokens, unless a single sequence is longer than that. What shares a prefix
    stays in one pass where it fits, so that the prefix is computed once. Sequences whose lengths have different classes
    (Backbone.rope_class) have other rotary frequencies and never share a pass. `prefixes` are those of `sequences`, for
    callers that read them afterwards. Tokens that are `cached` are not computed; passes then have limits of the keys
    too that they gather, which are those of all tokens, or of `pages` where keys stay in those: a sequence's keys are
    counted up to whole pages, which for many short ones is more than their tokens.

    >>> shared, longer = np.array([1, 2, 3, 4]), np.array([9, 9, 9, 9, 9])
    >>> plan_batches([shared, longer, np.array([1, 2, 3, 5])], max_tokens=6)
    [[1], [0, 2]]
    """
    prefixes = prefixes or PrefixOrder(sequences)
    if len(sequences) == 1:
        return [[0]]
    costs = _Costs(prefixes, max_tokens, cached, pages)
    if rope_class is None:
        return _plan(costs, prefixes.order)
    alike: dict[int, list[int]] = {}
    for i in prefixes.order:
        alike.setdefault(rope_class(len(sequences[i])), []).append(i)
    return [batch for _, group in sorted(alike.items(), reverse=True) for batch in _plan(costs, group)]


def plan_padded_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of the sequences of each pass of a padded graph, the longest first.

    A pass computes its longest sequence's length for each of its sequences, which is at most `max_tokens`, unless a
    single sequence is longer than that. Of all cuts of the sequences ordered by length this is the one that computes
    least, a pass counting as PASS_COST tokens more (dynamic programming over where the last pass begins).

    >>> plan_padded_batches([10, 200, 12, 190], max_tokens=512)
    [[1, 3], [2, 0]]
    """
    order = np.argsort(-np.array(lengths, np.int64), kind="stable")
    ordered = np.array(lengths, np.int64)[order]
    costs, begins, first = np.zeros(len(ordered) + 1, np.int64), [0], 0
    for end in range(1, len(ordered) + 1):
        while first < end - 1 and (end - first) * ordered[first] > max_tokens:
            first += 1
        computed = np.arange(end - first, 0, -1) * ordered[first:end]
        totals = costs[first:end] + computed + PASS_COST
        begins.append(first + int(totals.argmin()))
        costs[end] = totals.min()
    batches, end = [], len(ordered)
    while end:
        batches.append(order[begins[end] : end].tolist())
        end = begins[end]
    return batches[::-1]


@dataclass
class _Batch:
    """Sequences of one pass, the tokens it computes, and the keys that it gathers, or has in pages, where limited."""

    tokens: int
    keys: int
    members: list[int]


@dataclass(frozen=True)
class _Costs:
    """What sequences cost in a pass of at most `max_tokens` tokens."""

    prefixes: PrefixOrder
    max_tokens: int
    cached: Sequence[CachedPrefix] | None
    pages: PageLimit | None

    def batch(self, i: int, shared: int = 0) -> _Batch:
        """Sequence i after others that share its first tokens."""
        length = len(self.prefixes.sequences[i])
        if self.cached is None:
            return _Batch(length - shared, 0, [i])
        known = max(shared, self.cached[i].length)
        tokens = max(1, length - known)
        if self.pages is None:
            return _Batch(tokens, -(-tokens // QUERY_BLOCK) * length, [i])
        size = self.pages.size
        read = int((self.pages.ends[i] > shared).sum())
        written = -(-length // size) - known // size  # the first of them may begin with copies of cached keys
        return _Batch(tokens, size * (read + written), [i])

    def fit(self, a: _Batch, b: _Batch) -> bool:
        """Whether both may be one pass."""
        pages = self.pages
        keys = KEYS_PER_TOKEN * self.max_tokens if pages is None else pages.size * pages.count
        return a.tokens + b.tokens <= self.max_tokens and (self.cached is None or a.keys + b.keys <= keys)


def _plan(costs: _Costs, ordered: Sequence[int]) -> list[list[int]]:
    """The passes of those sequences that are named in `ordered`, in lexicographic order."""
    prefixes = costs.prefixes
    families = sorted(_families(prefixes, ordered), key=lambda f: -max(len(prefixes.sequences[i]) for i in f))
    pieces = [piece for family in families for piece in _pieces(costs, family)]
    batches: list[_Batch] = []
    for piece in pieces:
        fitting = next((b for b in batches[-OPEN_BATCHES:] if costs.fit(b, piece)), None)
        if fitting is None:
            batches.append(piece)
        else:
            _add(fitting, piece)
    return [batch.members for batch in batches]


def _add(batch: _Batch, more: _Batch) -> None:
    batch.tokens += more.tokens
    batch.keys += more.keys
    batch.members += more.members


def _pieces(costs: _Costs, family: Sequence[int]) -> list[_Batch]:
    """A family cut, only where it must be, into parts that fit into a pass each."""
    pieces = [costs.batch(family[0])]
    for previous, i in pairwise(family):
        more = costs.batch(i, costs.prefixes.shared(previous, i))
        if costs.fit(pieces[-1], more):
            _add(pieces[-1], more)
        else:
            pieces.append(costs.batch(i))
    return pieces


def _families(prefixes: PrefixOrder, ordered: Sequence[int]) -> list[list[int]]:
    """Runs of sequences that share a worthwhile prefix with their neighbour."""
    families: list[list[int]] = []
    for i in ordered:
        if families:
            previous = families[-1][-1]
            shorter = min(len(prefixes.sequences[i]), len(prefixes.sequences[previous]))
            if prefixes.shared(previous, i) > WORTH_SHARING * shorter:
                families[-1].append(i)
                continue
        families.append([i])
    return families
