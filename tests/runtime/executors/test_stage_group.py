"""Which stages go together: on a device of their own, or into memory at one time."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmruntime.bundle.manifest import Stage
from rmruntime.errors import BackendError
from rmruntime.executors.stage_group import split_by_device, split_by_memory


def stages(*sizes: tuple[int, int]) -> tuple[Stage, ...]:
    """Of so many layers and bytes each."""
    made, first = [], 0
    for layers, nbytes in sizes:
        made.append(Stage(file=f"{first}", first=first, last=first + layers - 1, weight_bytes=nbytes, ranges=()))
        first += layers
    return tuple(made)


def lengths(groups: list[tuple[Stage, ...]]) -> list[int]:
    return [len(group) for group in groups]


def test_devices_have_equally_many_layers_then_bytes() -> None:
    assert lengths(split_by_device(stages(*[(1, 10)] * 8), 2)) == [4, 4]
    assert lengths(split_by_device(stages((40, 80), (40, 70)), 2)) == [1, 1]
    # three of five are the least that one device may have: the heavy first stage keeps to two
    assert lengths(split_by_device(stages((1, 50), *[(1, 10)] * 4), 2)) == [2, 3]
    assert lengths(split_by_device(stages((3, 1), (1, 1), (1, 1), (1, 1)), 2)) == [1, 3]


def test_more_devices_than_stages() -> None:
    with pytest.raises(BackendError, match=r"3 devices were given for 2 stages.*--stages 3"):
        split_by_device(stages((1, 1), (1, 1)), 3)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=6), st.integers(1, 6))
def test_no_other_cut_is_better(sizes: list[tuple[int, int]], devices: int) -> None:
    given_stages = stages(*sizes)
    if devices > len(sizes):
        return

    def worst(groups: list[tuple[Stage, ...]]) -> tuple[int, int]:
        return max((sum(s.last - s.first + 1 for s in g), sum(s.weight_bytes for s in g)) for g in groups)

    found = split_by_device(given_stages, devices)
    assert tuple(itertools.chain(*found)) == given_stages and all(found)
    for cuts in itertools.combinations(range(1, len(sizes)), devices - 1):
        ends = (0, *cuts, len(sizes))
        assert worst(found) <= worst([given_stages[a:b] for a, b in itertools.pairwise(ends)])


def test_memory_holds_as_many_stages_as_fit() -> None:
    assert lengths(split_by_memory(stages(*[(1, 10)] * 5), 25)) == [2, 2, 1]
    assert lengths(split_by_memory(stages((1, 30), (1, 10), (1, 10)), 30)) == [1, 2]
