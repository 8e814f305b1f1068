"""Cuts sequences into passes: those that start alike together, long ones with long ones, within a token budget."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rmruntime.trie import common_prefix, lexicographic_order

Ints = NDArray[np.int64]
WORTH_SHARING = 0.25  # of the shorter sequence: a common chat header alone makes no family


def plan_batches(sequences: Sequence[Ints], max_tokens: int) -> list[list[int]]:
    """Indices of the sequences of each pass, longest families first.

    A pass computes at most `max_tokens` trie tokens, unless a single sequence is longer than that.
    """
    families = sorted(_families(sequences), key=lambda f: -max(len(sequences[i]) for i in f))
    batches: list[list[int]] = []
    batch: list[int] = []
    budget = 0
    for family in families:
        for i, cost in _costs(sequences, family):
            if batch and budget + cost > max_tokens:
                batches.append(batch)
                batch, budget, cost = [], 0, len(sequences[i])
            batch.append(i)
            budget += cost
    return [*batches, batch] if batch else batches


def _families(sequences: Sequence[Ints]) -> list[list[int]]:
    """Runs, in lexicographic order, of sequences that share a worthwhile prefix with their neighbour."""
    families: list[list[int]] = []
    for i in lexicographic_order(sequences):
        if families:
            own, previous = sequences[i], sequences[families[-1][-1]]
            if common_prefix(previous, own) > WORTH_SHARING * min(len(own), len(previous)):
                families[-1].append(i)
                continue
        families.append([i])
    return families


def _costs(sequences: Sequence[Ints], family: Sequence[int]) -> list[tuple[int, int]]:
    """Each member with the tokens it adds to those before it."""
    costs = [(family[0], len(sequences[family[0]]))]
    for previous, i in pairwise(family):
        costs.append((i, len(sequences[i]) - common_prefix(sequences[previous], sequences[i])))
    return costs
