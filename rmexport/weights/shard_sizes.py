"""Divides a sequence of tensors among shards of bounded and about equal size."""

from collections.abc import Sequence


def cut_evenly(sizes: Sequence[int], most: int, least: int) -> list[range]:
    """Consecutive items in as few groups as `most` bytes a group allow, but `least` where there are as many items.

    Of the ways to do that, one whose largest group is smallest. An item of more than `most` has a group of its own.
    """
    count = max(len(_cut(sizes, most)), min(least, len(sizes)))
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if len(_cut(sizes, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return _cut(sizes, high)


def _cut(sizes: Sequence[int], most: int) -> list[range]:
    """Each group as full as it may be."""
    groups, first, held = [], 0, 0
    for i, size in enumerate(sizes):
        if i > first and held + size > most:
            groups.append(range(first, i))
            first, held = i, 0
        held += size
    return [*groups, range(first, len(sizes))] if sizes else []
