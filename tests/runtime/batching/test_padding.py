"""Padded rows: every sequence whole and in its place, everything else masked."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rmruntime.batching.padding import pad
from rmruntime.sequences import TokenSequence

SEQUENCES = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), min_size=1, max_size=6)


def sequences(ids: list[list[int]], *, typed: bool) -> list[TokenSequence]:
    return [
        TokenSequence(ids=np.array(row), types=np.array(row) % 2 if typed else None, reads={"score": np.array([0])})
        for row in ids
    ]


@given(SEQUENCES, st.integers(0, 9), st.booleans())
def test_rows_hold_their_sequences(ids: list[list[int]], pad_id: int, typed: bool) -> None:
    inputs = pad(sequences(ids, typed=typed), pad_id)
    longest = max(map(len, ids))
    assert set(inputs.feeds) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(a.shape == (len(ids), longest) and a.dtype == np.int64 for a in inputs.feeds.values())
    for i, row in enumerate(ids):
        rest = longest - len(row)
        assert inputs.feeds["input_ids"][i].tolist() == row + [pad_id] * rest
        assert inputs.feeds["attention_mask"][i].tolist() == [1] * len(row) + [0] * rest
        assert inputs.feeds["token_type_ids"][i].tolist() == [t % 2 * typed for t in row] + [0] * rest


@given(SEQUENCES)
def test_figures(ids: list[list[int]]) -> None:
    inputs = pad(sequences(ids, typed=False), 0)
    assert inputs.given == inputs.computed == sum(map(len, ids))
    assert inputs.computed + inputs.padded == inputs.feeds["input_ids"].size
    assert inputs.reads == (1,) * len(ids)
