"""Page arrays after cached beginnings: every token finds the keys before it, in new pages or earlier ones."""

import random
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rmruntime.batching.batch_plan import PageLimit, plan_batches
from rmruntime.batching.packing import RowShape, pack
from rmruntime.batching.paged_past import PageBlock, PagedPast, page_ends, paged_past
from rmruntime.batching.past import PastLayout, plan_past
from rmruntime.batching.prefix_cache import PrefixCache
from rmruntime.batching.trie import build_trie
from rmruntime.executors.page_pool import PagePool
from rmruntime.sequences import TokenSequence

LAYOUT = PastLayout((), (), 1, np.float32)
CALLS = st.lists(
    st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=5), min_size=1, max_size=4
)
SIZES = st.sampled_from([1, 4, 16])


def identities(ids: Any) -> list[int]:
    """A number for each token that says what came before it."""
    return [hash(tuple(ids[: i + 1].tolist())) for i in range(len(ids))]


class Device:
    """Pages that hold, for every key, the identity of its token; 0 where nothing was written."""

    def __init__(self, size: int, pages: int = 400, cached: int = 200) -> None:
        self.size, self.shape = size, RowShape(128, 16, page_size=size)
        self.pool = PagePool(count=pages, page_size=size, page_bytes=size)
        self.cache = PrefixCache(cached * size)
        self.slots = np.zeros(pages * size, np.int64)
        self.beginnings: dict[int, list[int]] = {}

    def run(self, call: list[list[int]], reads: list[list[int]]) -> PagedPast:
        """One pass, as a graph computes it; every computed token must see its beginning and nothing else."""
        sequences = [
            TokenSequence(ids=np.array(ids, np.int64), reads={"score": np.array(at)})
            for ids, at in zip(call, reads, strict=True)
        ]
        arrays = [s.ids for s in sequences]
        trie = build_trie(arrays)
        past = paged_past(
            plan_past(sequences, trie, self.cache.match(arrays), self.cache), self.pool, self.cache.forget_oldest
        )
        feeds = past.completed(pack(sequences, self.shape, past.trie, past.placement).feeds, LAYOUT)
        known = np.zeros(trie.tokens, np.int64)
        for path, ids in zip(trie.paths, arrays, strict=True):
            known[path] = named = identities(ids)
            self.beginnings |= {name: named[: i + 1] for i, name in enumerate(named)}
        self.check(feeds, known[past.placement.computed])
        past.keep(self.cache, LAYOUT, {}, [True] * len(sequences))
        past.release()
        return past

    def check(self, feeds: Any, own: Any) -> None:
        places = feeds["page_slots"]
        written = places[places >= 0]
        assert len(set(written.tolist())) == len(written)  # no edge writes over another's keys
        copies = self.slots[feeds["page_copies"]]
        rows = np.concatenate([own, np.zeros(max(2, len(own)) - len(own), np.int64), copies])
        self.slots[written] = rows[feeds["page_tokens"]][places >= 0]
        seen: list[list[int]] = []
        for edge, (begin, end) in enumerate(pairwise(feeds["page_starts"].tolist())):
            for offset in range(end - begin):
                upto = np.arange(feeds["page_past"][edge] + offset + 1)
                at = feeds["page_table"][edge, upto // self.size] * self.size + upto % self.size
                seen.append(self.slots[at].tolist())
        for number, slot in enumerate(feeds["unpack_index"][: len(own)].tolist()):
            assert feeds["page_queries"][slot] == number
            assert seen[slot] == self.beginnings[int(own[number])]


@given(CALLS, SIZES, st.randoms(use_true_random=False))
def test_tokens_see_what_came_before_them(calls: list[list[list[int]]], size: int, rng: random.Random) -> None:
    device = Device(size)
    for call in [*calls, *calls]:
        reads = [sorted(rng.sample(range(len(ids)), k=min(len(ids), rng.randint(1, 3)))) for ids in call]
        device.run(call, reads)
    held = device.pool.count - device.pool.free
    assert held * size == device.cache.nbytes  # every page that the cache holds is counted, and once
    device.cache.clear()
    assert device.pool.free == device.pool.count


@given(CALLS, SIZES)
def test_few_pages_are_enough_for_the_same(calls: list[list[list[int]]], size: int) -> None:
    """The cache lets go of what it has where a pass needs the pages."""
    device = Device(size, pages=240 // size + 10, cached=2)
    for call in calls:
        device.run(call, [[len(ids) - 1] for ids in call])
        assert device.cache.nbytes <= 2 * size


@given(CALLS, SIZES, st.integers(1, 30))
def test_a_planned_pass_needs_no_more_pages_than_there_are(calls: list[list[list[int]]], size: int, count: int) -> None:
    """Those that it writes and the cached ones that it reads, unless a single sequence needs more."""
    device = Device(size)
    for call in calls:
        arrays = [np.array(ids, np.int64) for ids in call]
        cached = device.cache.match(arrays)
        limit = PageLimit(size=size, count=count, ends=[page_ends(found) for found in cached])
        for batch in plan_batches(arrays, 1000, cached=cached, pages=limit):
            some = [TokenSequence(ids=arrays[i], reads={"score": np.array([len(arrays[i]) - 1])}) for i in batch]
            trie = build_trie([s.ids for s in some])
            plain = plan_past(some, trie, [cached[i] for i in batch], device.cache)
            past = paged_past(plain, device.pool, device.cache.forget_oldest)
            past.completed(pack(some, device.shape, trie, past.placement).feeds, LAYOUT)
            assert len(batch) == 1 or len(past.pages.held) + len(past.pages.written) <= count
            past.release()
        device.run(call, [[len(ids) - 1] for ids in call])


def test_many_short_sequences_are_counted_by_whole_pages() -> None:
    sequences = [np.full(10, i, np.int64) for i in range(6)]
    cached = PrefixCache(1000).match(sequences)
    found = plan_batches(
        sequences, 1000, cached=cached, pages=PageLimit(size=16, count=2, ends=[page_ends(c) for c in cached])
    )
    assert sorted(map(len, found)) == [2, 2, 2]
    assert len(plan_batches(sequences, 1000, cached=cached)) == 1


def test_what_goes_on_writes_its_rest_and_copies_of_a_page() -> None:
    """Ten tokens in pages of four: two pages are shared, the two tokens beyond them are copied."""
    device = Device(4)
    device.run([[1] * 10], [[9]])
    assert (device.pool.count - device.pool.free, device.cache.nbytes) == (3, 12)
    before = device.pool.free
    ids = [1] * 10 + [2, 3]
    sequence = TokenSequence(ids=np.array(ids), reads={"score": np.array([11])})
    trie = build_trie([sequence.ids])
    past = paged_past(
        plan_past([sequence], trie, device.cache.match([sequence.ids]), device.cache), device.pool, lambda: False
    )
    feeds = pack([sequence], device.shape, trie, past.placement).feeds
    assert feeds["input_ids"].tolist() == [2, 3]
    assert feeds["page_tokens"].tolist() == [2, 3, 0, 1]
    assert feeds["page_past"].tolist() == [8] and feeds["page_bounds"].tolist() == [4, 12]
    assert len(feeds["page_copies"]) == 2
    device.run([ids], [[11]])
    assert device.pool.free == before - 1


def test_a_scored_token_that_is_cached_writes_nothing() -> None:
    device = Device(4)
    device.run([[1] * 10], [[9]])
    free = device.pool.free
    past = device.run([[1] * 10], [[2, 9]])
    assert len(past.placement.computed) == 2
    assert device.pool.free == free


def test_blocks_are_cut_and_counted_by_page() -> None:
    pool = PagePool(count=8, page_size=4, page_bytes=100)
    block = PageBlock(2, 14, tuple(pool.take(4, lambda: False)), pool)
    first, rest = block[:, :5], block[:, 5:]
    assert (first.shape[1], rest.shape[1]) == (5, 7)
    assert [page.number for page in first.pages] == [0, 1] and [page.number for page in rest.pages] == [1, 2, 3]
    assert (block.nbytes, first.nbytes, rest.nbytes) == (400, 200, 200)
    assert block[:, 2:].nbytes == 300  # from the beginning of a page on
