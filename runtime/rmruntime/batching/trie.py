"""Token sequences as a trie: what starts alike is computed once, to any depth, found by comparing ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from rmruntime.sequences import Ints


@dataclass(frozen=True)
class TokenTrie:
    """Distinct tokens of a batch of sequences.

    input_ids, position_ids [T]. `paths[i]` [L_i] are the trie tokens of sequence i, in order; `shared[i]` of them were
    there before it, so it contributed the block `[starts[i], starts[i] + L_i - shared[i])`.
    """

    input_ids: Ints
    position_ids: Ints
    paths: tuple[Ints, ...]
    shared: Ints
    starts: Ints

    @property
    def tokens(self) -> int:
        """T, the tokens to compute."""
        return len(self.input_ids)


@dataclass(frozen=True)
class Placement:
    """Which tokens of a trie a pass computes, and where it finds the keys of all.

    `computed` [T] are the trie's tokens that are computed, ascending, and `numbers` [all] the place of each among them.
    `slots` [all] are the places of their keys, of which the first `past` are cached (`rmruntime.batching.past`). Where
    keys are in pages, `pages` [all] has the page of each cached token, numbered -1, -2 and so on, and 0 for the others
    (`rmruntime.batching.cached_paging`); None where a pass's own are all there are.
    """

    computed: Ints
    numbers: Ints
    slots: Ints
    past: int = 0
    pages: Ints | None = None


def all_computed(tokens: int) -> Placement:
    """Every token of a trie is computed, and its key stands where it does."""
    every = np.arange(tokens)
    return Placement(every, every, every)


def lexicographic_order(sequences: Sequence[Ints]) -> list[int]:
    """Indices that put sequences with common beginnings next to each other."""
    keys = [ids.astype(">u4").tobytes() for ids in sequences]  # big-endian bytes compare as the numbers do
    return sorted(range(len(keys)), key=keys.__getitem__)


def common_prefix(a: Ints, b: Ints) -> int:
    """How many leading ids two sequences share."""
    n = min(len(a), len(b))
    different = a[:n] != b[:n]
    first = int(different.argmax()) if n else 0
    return first if n and different[first] else n


class PrefixOrder:
    """Sequences in lexicographic order: each shares most with its predecessor, and with any earlier one no more than
    the neighbours between them share.

    Sorted and compared once, when first asked; the batch plan and the trie of every batch then read it.
    """

    def __init__(self, sequences: Sequence[Ints], *, share: bool = True) -> None:
        """Without `share` sequences have nothing in common, whatever their tokens: a token's keys are not all its own
        sequence's first ones.
        """
        self.sequences, self._share = sequences, share

    @cached_property
    def order(self) -> list[int]:
        """Indices of the sequences, in order."""
        return lexicographic_order(self.sequences)

    @cached_property
    def places(self) -> list[int]:
        """The place of each sequence in the order."""
        places = [0] * len(self.order)
        for place, i in enumerate(self.order):
            places[i] = place
        return places

    def shared(self, earlier: int, later: int) -> int:
        """How many leading ids two sequences share, of which `earlier` is not behind `later` in the order."""
        first, last = self.places[earlier], self.places[later]
        return self._depths[last] if last == first + 1 else min(self._depths[first + 1 : last + 1])

    def trie(self, members: Sequence[int], *, share: bool = True) -> TokenTrie:
        """The trie of the sequences at the indices `members`; without `share` no token is in two of its paths."""
        paths: list[Ints] = [np.empty(0, np.int64)] * len(members)
        shared, starts = np.zeros(len(members), np.int64), np.zeros(len(members), np.int64)
        ids, positions, offset, previous = [], [], 0, -1
        for at in sorted(range(len(members)), key=lambda at: self.places[members[at]]):
            tokens = self.sequences[members[at]]
            depth = self.shared(members[previous], members[at]) if share and previous >= 0 else 0
            fresh = np.arange(offset, offset + len(tokens) - depth)
            paths[at] = np.concatenate([paths[previous][:depth], fresh]) if depth else fresh
            shared[at], starts[at] = depth, offset
            ids.append(tokens[depth:])
            positions.append(np.arange(depth, len(tokens)))
            offset, previous = offset + len(fresh), at
        return TokenTrie(np.concatenate(ids), np.concatenate(positions), tuple(paths), shared, starts)

    @cached_property
    def _depths(self) -> list[int]:
        """How many leading ids each sequence of the order shares with the one before it."""
        if not self._share:
            return [0] * len(self.order)
        ordered = [self.sequences[i] for i in self.order]
        return [0, *(common_prefix(a, b) for a, b in pairwise(ordered))]


def build_trie(sequences: Sequence[Ints], *, share: bool = True) -> TokenTrie:
    """The trie of sequences that nothing is known of yet."""
    return PrefixOrder(sequences, share=share).trie(range(len(sequences)))
