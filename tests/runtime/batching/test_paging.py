"""Page arrays: every token finds, through its edge's pages, the tokens before it and no others."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rmruntime.batching.packing import RowShape, pack
from rmruntime.batching.paging import page_feeds
from rmruntime.batching.trie import TokenTrie, build_trie
from rmruntime.sequences import TokenSequence

SEQUENCES = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=40), min_size=1, max_size=8)
PAGES = st.sampled_from([1, 4, 16])


def trie_of(sequences: list[list[int]]) -> TokenTrie:
    return build_trie([np.array(ids, np.int64) for ids in sequences])


def seen_by_tokens(feeds: dict[str, np.ndarray], size: int) -> list[list[int]]:
    """For each trie token, the tokens in the pages that its query reads; all pages are written before."""
    table, past, starts = feeds["page_table"], feeds["page_past"], feeds["page_starts"]
    pages = np.full((table.max() + 1, size), -1)
    edge_of, position_of = [], []
    for edge, (begin, end) in enumerate(pairwise(starts.tolist())):
        positions = past[edge] + np.arange(end - begin)
        at = table[edge, positions // size], positions % size
        assert (pages[at] == -1).all()  # no edge writes over another's keys
        pages[at] = feeds["page_tokens"][begin:end]
        edge_of += [edge] * len(positions)
        position_of += positions.tolist()
    seen = []
    for slot in feeds["unpack_index"].tolist():
        upto = np.arange(position_of[slot] + 1)
        seen.append(pages[table[edge_of[slot], upto // size], upto % size].tolist())
    return seen


@given(SEQUENCES, PAGES)
def test_tokens_see_their_prefix_and_nothing_else(sequences: list[list[int]], size: int) -> None:
    trie = trie_of(sequences)
    feeds = page_feeds(trie, size)
    prefixes = {int(token): path[: i + 1].tolist() for path in trie.paths for i, token in enumerate(path)}
    assert seen_by_tokens(feeds, size) == [prefixes[token] for token in range(trie.tokens)]


@given(SEQUENCES, PAGES)
def test_what_is_fed_again_is_less_than_a_page_an_edge(sequences: list[list[int]], size: int) -> None:
    trie = trie_of(sequences)
    feeds = page_feeds(trie, size)
    edges = len(feeds["page_past"])
    assert 0 <= len(feeds["page_tokens"]) - trie.tokens <= edges * (size - 1)
    assert edges == np.count_nonzero(trie.shared < [len(path) for path in trie.paths])
    assert feeds["page_bounds"].tolist() == [
        np.diff(feeds["page_starts"]).max(),
        (feeds["page_past"] + np.diff(feeds["page_starts"])).max(),
    ]
    assert (feeds["page_past"] % size == 0).all()
    assert set(feeds["page_table"].ravel().tolist()) == set(range(feeds["page_table"].max() + 1))


def test_a_shared_page_is_written_once() -> None:
    """Two answers to a prompt of two and a half pages: the two are the first answer's, the half is fed twice."""
    prompt = [1] * 10
    feeds = page_feeds(trie_of([[*prompt, 2, 2], [*prompt, 3, 3, 3, 3]]), 4)
    assert feeds["page_past"].tolist() == [0, 8]
    assert feeds["page_table"].tolist() == [[0, 1, 2, 0], [0, 1, 3, 4]]
    assert feeds["page_tokens"].tolist() == [*range(12), 8, 9, 12, 13, 14, 15]
    assert feeds["unpack_index"].tolist() == [*range(12), 14, 15, 16, 17]


def test_a_lone_token_is_computed_twice_but_written_once() -> None:
    sequence = TokenSequence(ids=np.array([5]), reads={"score": np.array([0])})
    feeds = pack([sequence], RowShape(128, 16, page_size=256)).feeds
    assert feeds["input_ids"].tolist() == [5, 5]
    assert feeds["page_tokens"].tolist() == [0]
    assert feeds["unpack_index"].tolist() == [0, 0]
    assert not [name for name in feeds if "query_index" in name]
