"""Token sequences as a trie: what starts alike is computed once, to any depth, found by comparing ids."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


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


def build_trie(sequences: Sequence[Ints], *, share: bool = True) -> TokenTrie:
    """The trie of a batch; without `share` one whose sequences have no token in common.

    In lexicographic order a sequence shares most with its predecessor, so one comparison finds its place.
    """
    paths: list[Ints] = [np.empty(0, np.int64)] * len(sequences)
    shared, starts = np.zeros(len(sequences), np.int64), np.zeros(len(sequences), np.int64)
    ids, positions, offset, previous = [], [], 0, -1
    for i in lexicographic_order(sequences):
        own = sequences[i]
        depth = common_prefix(sequences[previous], own) if share and previous >= 0 else 0
        fresh = np.arange(offset, offset + len(own) - depth)
        paths[i] = np.concatenate([paths[previous][:depth], fresh]) if depth else fresh
        shared[i], starts[i] = depth, offset
        ids.append(own[depth:])
        positions.append(np.arange(depth, len(own)))
        offset, previous = offset + len(fresh), i
    return TokenTrie(np.concatenate(ids), np.concatenate(positions), tuple(paths), shared, starts)
