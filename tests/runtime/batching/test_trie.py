"""The trie: shares exactly what starts alike."""

from itertools import combinations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rmruntime.batching.trie import PrefixOrder, build_trie, common_prefix, lexicographic_order

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=12)


def arrays(sequences: list[list[int]]) -> list[np.ndarray]:
    return [np.array(s, np.int64) for s in sequences]


@given(SEQUENCES)
def test_paths_spell_the_sequences(sequences: list[list[int]]) -> None:
    trie = build_trie(arrays(sequences))
    for path, ids in zip(trie.paths, sequences, strict=True):
        assert trie.input_ids[path].tolist() == ids
        assert trie.position_ids[path].tolist() == list(range(len(ids)))


@given(SEQUENCES)
def test_every_distinct_prefix_is_one_token(sequences: list[list[int]]) -> None:
    trie = build_trie(arrays(sequences))
    prefixes = {tuple(ids[: k + 1]) for ids in sequences for k in range(len(ids))}
    assert trie.tokens == len(prefixes)


@given(SEQUENCES)
def test_blocks_cover_all_tokens_once(sequences: list[list[int]]) -> None:
    trie = build_trie(arrays(sequences))
    owned = [path[shared:] for path, shared in zip(trie.paths, trie.shared.tolist(), strict=True)]
    assert sorted(np.concatenate(owned).tolist()) == list(range(trie.tokens))
    for block, start in zip(owned, trie.starts.tolist(), strict=True):
        assert block.tolist() == list(range(start, start + len(block)))


@given(SEQUENCES)
def test_order_is_lexicographic(sequences: list[list[int]]) -> None:
    assert [sequences[i] for i in lexicographic_order(arrays(sequences))] == sorted(sequences)


@given(SEQUENCES, st.data())
def test_a_batchs_trie_is_the_same_from_the_order_of_all_sequences(
    sequences: list[list[int]], data: st.DataObject
) -> None:
    """Whatever lies between its members in that order."""
    given, prefixes = arrays(sequences), PrefixOrder(arrays(sequences))
    members = data.draw(st.lists(st.sampled_from(range(len(given))), min_size=1, unique=True))
    found, alone = prefixes.trie(members), build_trie([given[i] for i in members])
    assert found.tokens == alone.tokens
    assert [found.input_ids[path].tolist() for path in found.paths] == [sequences[i] for i in members]
    assert found.shared.sum() == alone.shared.sum()
    ordered = sorted(members, key=prefixes.places.__getitem__)
    for i, j in combinations(ordered, 2):
        assert prefixes.shared(i, j) == common_prefix(given[i], given[j])


@given(SEQUENCES)
def test_a_trie_that_shares_nothing(sequences: list[list[int]]) -> None:
    trie = PrefixOrder(arrays(sequences)).trie(range(len(sequences)), share=False)
    assert trie.tokens == sum(map(len, sequences)) and not trie.shared.any()
    assert sorted(np.concatenate(trie.paths).tolist()) == list(range(trie.tokens))


def test_large_ids_sort_as_numbers() -> None:
    assert lexicographic_order(arrays([[70000], [256], [255], [1 << 17]])) == [2, 1, 0, 3]


def test_common_prefix() -> None:
    a, b = np.array([1, 2, 3]), np.array([1, 2, 4, 5])
    assert (common_prefix(a, b), common_prefix(a, a), common_prefix(a[:0], b), common_prefix(a[2:], b)) == (2, 3, 0, 0)
