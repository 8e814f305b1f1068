"""Batches: every sequence once, within the budget, relatives together."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rmruntime.batching.batch_plan import PASS_COST, plan_batches, plan_padded_batches
from rmruntime.batching.trie import build_trie
from rmruntime.bundle.manifest import Backbone

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=25)


@given(SEQUENCES, st.integers(1, 60))
def test_every_sequence_once_within_the_budget(sequences: list[list[int]], budget: int) -> None:
    arrays = [np.array(s, np.int64) for s in sequences]
    batches = plan_batches(arrays, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(sequences)))
    for batch in batches:
        computed = build_trie([arrays[i] for i in batch]).tokens
        assert computed <= budget or len(batch) == 1


def test_candidates_stay_together() -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 1000, 100) for _ in range(4)]
    sequences = [np.concatenate([prompts[i % 4], rng.integers(0, 1000, 20)]) for i in range(16)]
    batches = plan_batches(sequences, 180)
    assert sorted(tuple(sorted(i % 4 for i in batch)) for batch in batches) == [(k,) * 4 for k in range(4)]


def test_long_sequences_are_not_mixed_with_short_ones() -> None:
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 1000, n) for n in (10, 100, 12, 110, 11, 105)]
    assert [sorted(batch) for batch in plan_batches(sequences, 320)] == [[1, 3, 5], [0, 2, 4]]


def test_a_family_that_fits_is_not_cut_to_fill_a_pass() -> None:
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 1000, 100) for _ in range(3)]
    pairs = [np.concatenate([prompts[i // 2], rng.integers(0, 1000, 50)]) for i in range(6)]
    assert sorted(sorted(batch) for batch in plan_batches(pairs, 300)) == [[0, 1], [2, 3], [4, 5]]


def test_room_is_filled_with_what_fits() -> None:
    sequences = [np.full(n, n, np.int64) for n in (100, 90, 80, 20)]
    assert [sorted(batch) for batch in plan_batches(sequences, 120)] == [[0, 3], [1], [2]]


def test_nothing_gives_nothing() -> None:
    assert plan_batches([], 100) == []


def rope_class(rope_length: int, *, exact: bool = True) -> Callable[[int], int]:
    sizes = {"hidden_size": 1, "num_layers": 1, "vocab_size": 1, "max_length": 1, "parameters": 1}
    names = {"model_type": "tiny", "architecture": "Tiny"}
    return Backbone(**names, **sizes, rope_length=rope_length, rope_exact=exact).rope_class


@given(SEQUENCES, st.integers(1, 60), st.integers(1, 30))
def test_sequences_with_other_frequencies_share_no_pass(
    sequences: list[list[int]], budget: int, rope_length: int
) -> None:
    arrays = [np.array(s, np.int64) for s in sequences]
    for batch in plan_batches(arrays, budget, rope_class(rope_length, exact=False)):
        assert len({len(sequences[i]) > rope_length for i in batch}) == 1
    batches = plan_batches(arrays, budget, rope_class(rope_length))
    assert sorted(i for batch in batches for i in batch) == list(range(len(sequences)))
    for batch in batches:
        lengths = {len(sequences[i]) for i in batch}
        assert max(lengths) <= rope_length or len(lengths) == 1
        assert build_trie([arrays[i] for i in batch]).tokens <= budget or len(batch) == 1
    assert plan_batches(arrays, budget, rope_class(30)) == plan_batches(arrays, budget)  # none is longer


def test_long_sequences_of_one_length_still_share_their_prefix() -> None:
    sequences = [np.array([1] * 50 + [i], np.int64) for i in range(4)] + [np.array([1] * 60, np.int64)]
    assert [sorted(batch) for batch in plan_batches(sequences, 200, rope_class(40))] == [[4], [0, 1, 2, 3]]


@given(st.lists(st.integers(1, 40), min_size=0, max_size=12), st.integers(1, 120))
def test_padded_batches_compute_least(lengths: list[int], budget: int) -> None:
    batches = plan_padded_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    sizes = [[lengths[i] for i in batch] for batch in batches]
    assert all(len(batch) * max(batch) <= budget or len(batch) == 1 for batch in sizes)
    assert [n for batch in sizes for n in batch] == sorted(lengths, reverse=True)
    assert sum(cost(batch) for batch in sizes) == least_cost(sorted(lengths, reverse=True), budget)


def cost(batch: list[int]) -> int:
    return len(batch) * max(batch) + PASS_COST


def least_cost(lengths: list[int], budget: int) -> int:
    """Over all ways to cut the ordered lengths into runs, by counting through them."""
    best = []
    for mask in range(1 << max(0, len(lengths) - 1)):
        cuts = [0, *(i + 1 for i in range(len(lengths) - 1) if mask >> i & 1), len(lengths)]
        runs = [lengths[a:b] for a, b in pairwise(cuts) if b > a]
        if all(len(run) * max(run) <= budget or len(run) == 1 for run in runs):
            best.append(sum(cost(run) for run in runs))
    return min(best)
