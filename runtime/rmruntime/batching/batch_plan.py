"""Cuts sequences into passes: those that start alike together, long ones with long ones, within a token budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rmruntime.batching.trie import common_prefix, lexicographic_order

Ints = NDArray[np.int64]
OPEN_BATCHES = 3  # earlier passes that a later family may still fill up: like lengths stay together
WORTH_SHARING = 0.25  # of the shorter sequence: a common chat header alone makes no family
PASS_COST = 32  # padded tokens that a pass of its own is worth; DeBERTa-v3-base on two cores measures 20 to 30


def plan_batches(
    sequences: Sequence[Ints], max_tokens: int, rope_class: Callable[[int], int] | None = None
) -> list[list[int]]:
    """Indices of the sequences of each pass of a packed graph, longest families first.

    A pass computes at most `max_tokens` trie tokens, unless a single sequence is longer than that. What shares a prefix
    stays in one pass where it fits, so that the prefix is computed once. Sequences whose lengths have different classes
    (Backbone.rope_class) have other rotary frequencies and never share a pass.
    """
    if rope_class is None:
        return _plan(sequences, max_tokens)
    alike: dict[int, list[int]] = {}
    for i, sequence in enumerate(sequences):
        alike.setdefault(rope_class(len(sequence)), []).append(i)
    planned = (
        (group, batch)
        for _, group in sorted(alike.items(), reverse=True)
        for batch in _plan([sequences[i] for i in group], max_tokens)
    )
    return [[group[i] for i in batch] for group, batch in planned]


def plan_padded_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices of the sequences of each pass of a padded graph, the longest first.

    A pass computes its longest sequence's length for each of its sequences, which is at most `max_tokens`, unless a
    single sequence is longer than that. Of all cuts of the sequences ordered by length this is the one that computes
    least, a pass counting as PASS_COST tokens more (dynamic programming over where the last pass begins).
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


def _plan(sequences: Sequence[Ints], max_tokens: int) -> list[list[int]]:
    if len(sequences) == 1:
        return [[0]]
    families = sorted(_families(sequences), key=lambda f: -max(len(sequences[i]) for i in f))
    pieces = [piece for family in families for piece in _pieces(sequences, family, max_tokens)]
    batches: list[_Batch] = []
    for piece in pieces:
        fitting = next((b for b in batches[-OPEN_BATCHES:] if b.tokens + piece.tokens <= max_tokens), None)
        if fitting is None:
            batches.append(piece)
        else:
            fitting.tokens += piece.tokens
            fitting.members += piece.members
    return [batch.members for batch in batches]


@dataclass
class _Batch:
    """Sequences of one pass, and the tokens it computes."""

    tokens: int
    members: list[int]


def _pieces(sequences: Sequence[Ints], family: Sequence[int], max_tokens: int) -> list[_Batch]:
    """A family cut, only where it must be, into parts that fit into a pass each."""
    pieces: list[_Batch] = []
    for i, cost in _costs(sequences, family):
        if pieces and pieces[-1].tokens + cost <= max_tokens:
            pieces[-1].tokens += cost
            pieces[-1].members.append(i)
        else:
            pieces.append(_Batch(len(sequences[i]), [i]))
    return pieces


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
