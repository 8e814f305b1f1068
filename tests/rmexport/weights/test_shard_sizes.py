"""Shards are bounded, few and of about equal size; sizes are read as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexport import ExportOptions, OptionError
from rmexport.weights.shard_plan import cut_evenly
from rmruntime.options import parse_bytes

SIZES = st.lists(st.integers(1, 100), max_size=40)


@given(SIZES, st.integers(1, 200), st.integers(0, 5))
def test_every_item_once_in_order_and_no_group_too_large(sizes: list[int], most: int, least: int) -> None:
    groups = cut_evenly(sizes, most, least)
    assert [i for group in groups for i in group] == list(range(len(sizes)))
    for group in groups:
        assert len(group) == 1 or sum(sizes[i] for i in group) <= most
    if max(sizes, default=0) <= most:
        assert len(groups) <= max(2 * -(-sum(sizes) // most), least)


def test_groups_are_even() -> None:
    assert cut_evenly([10] * 12, 50, 0) == [range(4), range(4, 8), range(8, 12)]
    assert cut_evenly([10] * 12, 500, 4) == [range(3), range(3, 6), range(6, 9), range(9, 12)]
    assert cut_evenly([5, 90, 5, 5], 20, 0) == [range(1), range(1, 2), range(2, 4)]
    assert cut_evenly([], 20, 4) == []


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500mb", 5 * 10**8), ("2GiB", 2 << 30), ("1.5 TB", 1500 * 10**9), ("123456789", 123456789)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size
    assert ExportOptions(max_shard_size=text).max_shard_bytes == size


@pytest.mark.parametrize("text", ["", "GB", "5 apples", "-5GB", "0", "1e9", "5GB 5GB", "100KB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OptionError, match="max_shard_size"):
        ExportOptions(max_shard_size=text)
