"""The tree of cached tokens: what it finds, how it splits, and what it forgets."""

import random
import threading
from functools import partial

import numpy as np
import pytest

from rmruntime.batching.prefix_cache import BLOCK, KeyBlock, PrefixCache
from rmruntime.sequences import Ints

FEATURES = 4
TOKEN_BYTES = 2 * FEATURES * 4


def block_of(ids: Ints, begin: int, end: int) -> KeyBlock:
    """Keys and values that depend on all tokens up to each: the sum of the ids so far."""
    sums = np.cumsum(ids)[begin:end].astype(np.float32)
    return np.broadcast_to(sums[None, :, None], (2, end - begin, FEATURES)).copy()


def insert(cache: PrefixCache, ids: Ints, begin: int = 0) -> None:
    cache.insert(ids, begin, partial(block_of, ids))


def ids_of(*tokens: int) -> Ints:
    return np.array(tokens, np.int64)


def check(cache: PrefixCache, ids: Ints) -> int:
    """What is found is that of the sequence's own beginning; its length."""
    [found] = cache.match([ids])
    assert sum(block.shape[1] for block in found.blocks) == found.length <= len(ids)
    if found.length:
        np.testing.assert_array_equal(np.concatenate(found.blocks, axis=1), block_of(ids, 0, found.length))
    return found.length


def test_the_longest_beginning_is_found() -> None:
    cache = PrefixCache(1 << 20)
    assert check(cache, ids_of(1, 2, 3)) == 0
    insert(cache, ids_of(1, 2, 3, 4))
    insert(cache, ids_of(1, 2, 5, 6), 2)  # splits the edge of the first
    insert(cache, ids_of(7))
    expected = {(1, 2, 3, 4): 4, (1, 2, 3, 9): 3, (1, 2, 5, 6, 8): 4, (1, 9): 1, (7, 1): 1, (9,): 0}
    assert {ids: check(cache, ids_of(*ids)) for ids in expected} == expected
    assert cache.nbytes == 7 * TOKEN_BYTES


def test_an_edge_that_is_split_is_held_in_two_blocks_of_its_own() -> None:
    cache = PrefixCache(1 << 20)
    insert(cache, ids_of(1, 2, 3, 4))
    insert(cache, ids_of(1, 2, 5))
    [found] = cache.match([ids_of(1, 2, 3, 4)])
    assert [block.shape[1] for block in found.blocks] == [2, 2]
    assert all(block.base is None for block in found.blocks)


def test_long_sequences_are_cut_into_blocks() -> None:
    cache = PrefixCache(1 << 30)
    ids = np.arange(3 * BLOCK + 5)
    insert(cache, ids)
    [found] = cache.match([ids])
    assert [block.shape[1] for block in found.blocks] == [BLOCK, BLOCK, BLOCK, 5]
    assert check(cache, ids[: BLOCK + 7]) == BLOCK + 7


def test_nothing_is_kept_after_tokens_that_were_forgotten() -> None:
    cache = PrefixCache(1 << 20)
    insert(cache, ids_of(1, 2, 3, 4), 2)
    assert (cache.nbytes, check(cache, ids_of(1, 2, 3, 4))) == (0, 0)


def test_only_what_is_not_there_is_copied() -> None:
    cache, asked = PrefixCache(1 << 20), []

    def copied(begin: int, end: int) -> KeyBlock:
        asked.append((begin, end))
        return block_of(ids_of(1, 2, 3, 4, 5), begin, end)

    insert(cache, ids_of(1, 2, 3))
    cache.insert(ids_of(1, 2, 3, 4, 5), 1, copied)
    cache.insert(ids_of(1, 2, 3, 4, 5), 0, copied)
    assert asked == [(3, 5)]


def test_the_least_recently_used_goes_first_and_ends_before_beginnings() -> None:
    cache = PrefixCache(6 * TOKEN_BYTES)
    insert(cache, ids_of(1, 2, 3))
    insert(cache, ids_of(1, 2, 4), 2)
    insert(cache, ids_of(5, 6))
    assert cache.nbytes == 6 * TOKEN_BYTES
    cache.match([ids_of(1, 2, 3)])
    insert(cache, ids_of(8))
    assert [check(cache, ids_of(*ids)) for ids in ((1, 2, 4), (1, 2, 3), (5, 6), (8,))] == [2, 3, 2, 1]
    insert(cache, ids_of(9, 9, 9))
    assert [check(cache, ids_of(*ids)) for ids in ((9, 9, 9), (8,), (5, 6), (1, 2, 3))] == [3, 1, 2, 0]


def test_of_a_sequence_beyond_the_limit_the_beginning_stays() -> None:
    cache = PrefixCache(2 * BLOCK * TOKEN_BYTES)
    ids = np.arange(5 * BLOCK)
    insert(cache, ids)
    assert check(cache, ids) == 2 * BLOCK
    assert cache.nbytes <= cache.limit


def test_sequences_of_other_rotary_frequencies_share_nothing() -> None:
    cache = PrefixCache(1 << 20, lambda length: 0 if length <= 3 else length)
    insert(cache, ids_of(1, 2, 3))
    insert(cache, ids_of(1, 2, 3, 4))
    insert(cache, ids_of(1, 2, 3, 4, 5))
    found = [check(cache, ids_of(*ids)) for ids in ((1, 2), (1, 2, 3, 9), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6))]
    assert found == [2, 3, 5, 0]
    assert cache.nbytes == 12 * TOKEN_BYTES


def test_what_was_found_outlives_what_is_forgotten() -> None:
    cache = PrefixCache(1 << 20)
    insert(cache, ids_of(1, 2, 3))
    [found] = cache.match([ids_of(1, 2, 3)])
    cache.clear()
    assert check(cache, ids_of(1, 2, 3)) == cache.nbytes == 0
    np.testing.assert_array_equal(found.blocks[0], block_of(ids_of(1, 2, 3), 0, 3))


@pytest.mark.parametrize("seed", range(4))
def test_random_sequences_are_found_as_they_were_kept(seed: int) -> None:
    rng = random.Random(seed)
    cache = PrefixCache(rng.choice((40, 200, 5000)) * TOKEN_BYTES, lambda length: length // 40)
    known: list[Ints] = [ids_of()]
    for _ in range(400):
        base = rng.choice(known)
        ids = np.concatenate([base[: rng.randint(0, len(base))], np.array(rng.choices((1, 2), k=rng.randint(1, 12)))])
        known = [*known[-30:], ids]
        begin = check(cache, ids)
        if rng.random() < 0.8:
            insert(cache, ids, begin)
        assert cache.nbytes <= cache.limit


def test_several_threads_may_use_one_cache() -> None:
    cache, failures = PrefixCache(300 * TOKEN_BYTES), []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(200):
                ids = np.array(rng.choices((1, 2), k=rng.randint(1, 20)))
                insert(cache, ids, check(cache, ids))
        except Exception as error:  # of any type: the main thread tells it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert 0 < cache.nbytes <= cache.limit


def test_what_is_pinned_is_not_forgotten() -> None:
    cache = PrefixCache(10 * TOKEN_BYTES)
    kept = ids_of(1, 2, 3, 4)
    insert(cache, ids_of(1, 2, 3, 4, 5, 6))
    assert cache.pin(kept) == 4
    for first in range(10, 20):
        insert(cache, ids_of(first, 1, 2, 3, 4, 5))
        assert check(cache, kept) == 4
    assert check(cache, ids_of(1, 2, 3, 4, 5, 6)) == 4  # what came after it was forgotten
    insert(cache, ids_of(1, 2, 7, 8), 2)  # splits what is pinned
    for first in range(20, 30):
        insert(cache, ids_of(first, 1, 2, 3, 4, 5))
    assert (check(cache, kept), check(cache, ids_of(1, 2, 7))) == (4, 2)
    cache.unpin(kept, 4)
    assert check(cache, kept) == 4
    for first in range(30, 33):
        insert(cache, ids_of(first, 1, 2, 3, 4, 5))
    assert check(cache, kept) == 0


def test_pins_count() -> None:
    cache = PrefixCache(6 * TOKEN_BYTES)
    insert(cache, ids_of(1, 2, 3))
    assert [cache.pin(ids_of(1, 2, 3)), cache.pin(ids_of(1, 2, 9)), cache.pin(ids_of(8))] == [3, 2, 0]
    cache.unpin(ids_of(1, 2, 3), 3)
    insert(cache, ids_of(7, 1, 2, 3))
    assert check(cache, ids_of(1, 2, 3)) == 2
    cache.unpin(ids_of(1, 2, 9), 2)
    insert(cache, ids_of(8, 1, 2, 3))
    insert(cache, ids_of(9, 1, 2, 3))
    assert check(cache, ids_of(1, 2, 3)) == 0
    cache.pin(ids_of(9, 1))
    cache.clear()
    cache.unpin(ids_of(9, 1), 2)
    insert(cache, ids_of(9, 1))
    cache.unpin(ids_of(9, 1), 2)
    assert check(cache, ids_of(9, 1)) == 2


def test_what_has_no_space_beside_what_is_pinned_is_not_kept() -> None:
    cache = PrefixCache(5 * TOKEN_BYTES)
    insert(cache, ids_of(1, 2, 3, 4))
    cache.pin(ids_of(1, 2, 3, 4))
    insert(cache, ids_of(5, 6))
    insert(cache, ids_of(1, 2, 9, 9), 2)
    assert [check(cache, ids_of(*ids)) for ids in ((5, 6), (1, 2, 9, 9), (1, 2, 3, 4))] == [0, 2, 4]
    assert cache.nbytes == 4 * TOKEN_BYTES


def test_a_part_of_a_sequence_is_kept() -> None:
    cache = PrefixCache(1 << 20)
    ids = np.arange(2 * BLOCK + 9)
    cache.insert(ids, 0, partial(block_of, ids), 4)
    assert check(cache, ids) == 4
    cache.insert(ids, 2, partial(block_of, ids), 2 * BLOCK + 7)
    assert check(cache, ids) == 2 * BLOCK + 7
    cache.insert(ids, 0, partial(block_of, ids), 3)
    assert check(cache, ids) == 2 * BLOCK + 7
