"""Packed index arrays: attention through them sees exactly what causal attention over each sequence sees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmruntime.batching.packing import CHUNK_MULTIPLE, PAD_POSITION, PassInputs, RowShape, pack
from rmruntime.sequences import TokenSequence

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=6)


def packed(
    sequences: list[list[int]], reads: list[list[int]] | None = None, block: int = 16, shape: RowShape | None = None
) -> PassInputs:
    chosen = reads or [[len(ids) - 1] for ids in sequences]
    return pack(
        [
            TokenSequence(ids=np.array(ids, np.int64), reads={"score": np.array(r), "gate": np.array([0] * len(r))})
            for ids, r in zip(sequences, chosen, strict=True)
        ],
        shape or RowShape(block, 16),
    )


def seen_by(feeds: dict[str, np.ndarray], prefix: str) -> dict[int, list[int]]:
    """For each token of the set, by its place, the trie tokens its query may see, in key order."""
    width = feeds[f"{prefix}query_index"].shape[1]
    seen: dict[int, list[int]] = {}
    places = feeds[f"{prefix}unpack_index"].tolist()
    for token, place in enumerate(places):
        row, column = divmod(place, width)
        if len(places) == 2 and places[0] == places[1]:  # a lone token, computed twice
            assert token in (0, 1)
            token = 0
        assert feeds[f"{prefix}query_index"][row, column] == token
        position = feeds[f"{prefix}query_positions"][row, column]
        visible = feeds[f"{prefix}key_positions"][row] <= position
        seen[token] = feeds[f"{prefix}key_index"][row][visible].tolist()
    return seen


@given(SEQUENCES)
def test_queries_see_their_prefix_and_nothing_else(sequences: list[list[int]]) -> None:
    feeds = dict(packed(sequences).feeds)
    ids = feeds["input_ids"]
    seen = seen_by(feeds, "")
    spelled = {tuple(ids[keys].tolist()) for keys in seen.values()}
    assert spelled == {tuple(s[: k + 1]) for s in sequences for k in range(len(s))}
    assert all(keys[-1] == token for token, keys in seen.items())


@given(SEQUENCES)
def test_reads_point_at_their_tokens(sequences: list[list[int]]) -> None:
    reads = [sorted({0, len(ids) // 2, len(ids) - 1}) for ids in sequences]
    batch = packed(sequences, reads)
    feeds = dict(batch.feeds)
    assert batch.reads == tuple(len(r) for r in reads)
    seen, places = seen_by(feeds, "read_"), iter(feeds["score_index"].tolist())
    for ids, positions in zip(sequences, reads, strict=True):
        for position in positions:
            keys = seen[next(places)]
            assert feeds["input_ids"][keys].tolist() == ids[: position + 1]


def test_shapes_and_padding() -> None:
    feeds = packed([[1] * 50, [1] * 20 + [2] * 3], block=32).feeds
    assert feeds["key_index"].shape[1] % 16 == 0
    assert feeds["key_index"].shape == feeds["key_positions"].shape
    assert (feeds["key_positions"][feeds["key_positions"] > 50] == PAD_POSITION).all()
    assert max(array.max() for array in feeds.values()) < 2**31


def test_a_single_token_is_computed_twice_so_that_no_product_has_one_row() -> None:
    feeds = packed([[5]]).feeds
    assert feeds["input_ids"].tolist() == [5, 5]
    assert feeds["read_index"].tolist() == [0, 0]
    assert feeds["query_index"].shape[1] >= 2


@pytest.mark.parametrize("block", [16, 32, 128])
def test_blocks_are_no_larger_than_asked(block: int) -> None:
    assert packed([[1] * 400], block=block).feeds["query_index"].shape[1] <= block


@given(SEQUENCES, st.integers(16, 96))
def test_tokens_come_in_equal_chunks_of_whole_tiles(sequences: list[list[int]], limit: int) -> None:
    plain, chunked = (packed(sequences, shape=RowShape(32, 16, 3, chunk)) for chunk in (0, limit))
    chunks, size = chunked.feeds["input_ids"].shape
    assert size % CHUNK_MULTIPLE == 0 and size <= limit + CHUNK_MULTIPLE
    assert (chunks - 1) * size < chunked.computed <= chunks * size
    for name in ("input_ids", "position_ids", "unpack_index"):
        flat = chunked.feeds[name].ravel()
        assert len(flat) == chunks * size and not flat[chunked.computed :].any()
        assert flat[: chunked.computed].tolist() == plain.feeds[name][: chunked.computed].tolist()


def test_counts() -> None:
    batch = packed([[1, 2, 3], [1, 2, 4], [1, 2, 3]])
    assert (batch.given, batch.computed) == (9, 4)
