"""What a pass after cached tokens computes, where its rows find keys, and what goes into its past."""

from dataclasses import replace
from functools import partial

import numpy as np

from rmruntime.batching.batch_plan import KEYS_PER_TOKEN, plan_batches
from rmruntime.batching.packing import RowShape, pack
from rmruntime.batching.past import PassPast, PastLayout, longer, plan_past, without_past
from rmruntime.batching.prefix_cache import CachedPrefix, KeyBlock, PrefixCache
from rmruntime.batching.trie import build_trie
from rmruntime.sequences import Ints, TokenSequence

SHAPE = RowShape(query_block=128, key_multiple=8)
LAYOUT = PastLayout(("past_k_0", "past_v_0"), ("k_0", "v_0"), 3, np.float32)


def sequence(*ids: int, reads: tuple[int, ...] = (-1,)) -> TokenSequence:
    length = len(ids)
    return TokenSequence(ids=np.array(ids, np.int64), reads={"score": np.array([r % length for r in reads])})


def block_of(ids: Ints, begin: int, end: int) -> KeyBlock:
    return np.broadcast_to(ids[begin:end].astype(np.float32)[None, :, None], (2, end - begin, 3)).copy()


def filled(*sequences: TokenSequence, limit: int = 1 << 20) -> PrefixCache:
    cache = PrefixCache(limit)
    for one in sequences:
        cache.insert(one.ids, 0, partial(block_of, one.ids))
    return cache


def past_of(cache: PrefixCache, *sequences: TokenSequence) -> PassPast:
    ids = [s.ids for s in sequences]
    return plan_past(sequences, build_trie(ids), cache.match(ids), cache)


def test_only_what_is_not_cached_is_computed() -> None:
    cache = filled(sequence(1, 2, 3))
    a, b = sequence(1, 2, 3, 4, 5), sequence(1, 2, 9)
    past = past_of(cache, a, b)
    inputs = pack((a, b), SHAPE, past.trie, past.placement)
    assert inputs.feeds["input_ids"].tolist() == [4, 5, 9]
    assert inputs.feeds["position_ids"].tolist() == [3, 4, 2]
    assert (inputs.given, inputs.computed, inputs.cached) == (8, 3, 3)
    assert inputs.feeds["query_index"].tolist() == [[2, 0], [0, 1]]
    assert inputs.feeds["key_index"][:, :5].tolist() == [[0, 1, 5, 0, 0], [0, 1, 2, 3, 4]]
    assert inputs.feeds["read_index"].tolist() == [1, 2]
    assert inputs.feeds["read_key_index"][:, :5].tolist() == [[0, 1, 2, 3, 4], [0, 1, 5, 0, 0]]
    assert past.feeds(LAYOUT)["past_v_0"].tolist() == [[n] * 3 for n in (1, 2, 3)]


def test_a_scored_token_is_computed_again_and_its_key_is_the_cached_one() -> None:
    whole = sequence(1, 2, 3, 4, reads=(1, 3))
    past = past_of(filled(whole), whole)
    inputs = pack((whole,), SHAPE, past.trie, past.placement)
    assert inputs.feeds["input_ids"].tolist() == [2, 4]
    assert inputs.feeds["query_positions"].tolist() == [[1, 3]]
    assert inputs.feeds["key_index"].tolist() == [[0, 1, 2, 3, 0, 0, 0, 0]]
    assert (inputs.computed, inputs.cached) == (2, 2)


def test_a_lone_token_is_computed_twice_and_kept_once() -> None:
    cache, longer_one = filled(sequence(1, 2)), sequence(1, 2, 3)
    past = past_of(cache, longer_one)
    inputs = pack((longer_one,), SHAPE, past.trie, past.placement)
    assert inputs.feeds["input_ids"].tolist() == [3, 3]
    outputs = {name: np.full((2, 3), 3, np.float32) for name in LAYOUT.outputs}
    past.keep(cache, LAYOUT, outputs, [True])
    [found] = cache.match([longer_one.ids])
    np.testing.assert_array_equal(np.concatenate(found.blocks, axis=1), block_of(longer_one.ids, 0, 3))


def test_an_empty_past_is_one_row_of_zeros_that_nothing_reads() -> None:
    one = sequence(4, 5)
    for past in (past_of(filled(), one), without_past((one,), build_trie([one.ids]))):
        inputs = pack((one,), SHAPE, past.trie, past.placement)
        assert past.feeds(LAYOUT)["past_k_0"].tolist() == [[0, 0, 0]]
        assert inputs.feeds["key_index"].tolist() == [[1, 2, 1, 1, 1, 1, 1, 1]]


def test_nothing_is_kept_of_what_is_not_sound_nor_after_it() -> None:
    cache, sequences = filled(), (sequence(1, 2, 3, 7), sequence(1, 2, 3, 8), sequence(4, 5))
    past = past_of(cache, *sequences)
    returned = {name: np.repeat(past.trie.input_ids[:, None], 3, axis=1) for name in LAYOUT.outputs}
    past.keep(cache, LAYOUT, returned, [False, True, True])
    assert [found.length for found in cache.match([s.ids for s in sequences])] == [0, 0, 2]
    past.keep(cache, LAYOUT, returned, [True, True, True])
    for one, found in zip(sequences, cache.match([s.ids for s in sequences]), strict=True):
        np.testing.assert_array_equal(np.concatenate(found.blocks, axis=1), block_of(one.ids, 0, len(one.ids)))


def test_the_longer_of_two_answers_counts() -> None:
    short, long = CachedPrefix((), 2), CachedPrefix((), 5)
    assert longer([short, long], [long, short]) == [long, long]


def test_passes_are_planned_by_what_is_not_cached() -> None:
    prompt = list(range(100, 140))
    sequences = [np.array([*prompt, n, n + 1]) for n in range(8)]
    assert len(plan_batches(sequences, 50)) == 2
    apart = [np.array([n, *prompt]) for n in range(8)]
    cached = [CachedPrefix((), 36)] * 8
    assert len(plan_batches(apart, 50)) == 8
    assert [len(batch) for batch in plan_batches(apart, 50, cached=cached)] == [8]


def test_passes_are_bounded_by_the_keys_that_they_gather() -> None:
    budget = 50
    length = KEYS_PER_TOKEN * budget // 4
    sequences = [np.array([n, *range(100, 100 + length - 1)]) for n in range(8)]
    batches = plan_batches(sequences, budget, cached=[CachedPrefix((), length - 1)] * 8)
    assert [len(batch) for batch in batches] == [4, 4]


def test_of_a_sequence_only_so_much_is_kept() -> None:
    cache = filled(sequence(1, 2))
    a, b = replace(sequence(1, 2, 3, 4), kept=3), replace(sequence(5, 6), kept=0)
    past = past_of(cache, a, b)
    computed = np.zeros((past.placement.computed.size, 3), np.float32)
    past.keep(cache, LAYOUT, dict.fromkeys(LAYOUT.outputs, computed), [True, True])
    assert [found.length for found in cache.match([a.ids, b.ids])] == [3, 0]
