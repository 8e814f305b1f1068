"""Optimization profiles hold the passes that the runtime's planner really makes."""

from collections.abc import Sequence

import numpy as np
import pytest

from rmexport.compile.profiles import (
    Limits,
    chosen_length,
    longest_packed,
    packed_profiles,
    padded_profiles,
)
from rmexport.errors import OptionError
from rmruntime.batching.batch_plan import plan_batches
from rmruntime.batching.packing import RowShape, pack
from rmruntime.bundle.engine_record import Profile
from rmruntime.sequences import TokenSequence

QUERY_BLOCK, KEY_MULTIPLE = 128, 16
SHAPE = RowShape(QUERY_BLOCK, KEY_MULTIPLE)
SLOTS_8B = (1 << 31) // 1024 - 1  # 8 key/value heads of 128
DIMENSIONS = {
    "input_ids": ("T",),
    "query_index": ("R", "Sq"),
    "key_index": ("R", "Sk"),
    "read_index": ("N",),
    "score_index": ("P",),
    "read_query_index": ("read_R", "read_Sq"),
    "read_key_index": ("read_R", "read_Sk"),
}


def limits(length: int = 8192, slots: int = SLOTS_8B, tokens: int = 16384) -> Limits:
    return Limits(
        tokens=tokens,
        length=length,
        sequences=512,
        key_slots=slots,
        query_block=QUERY_BLOCK,
        key_multiple=KEY_MULTIPLE,
    )


def random_ids(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 30000, length)


def fitting(profiles: Sequence[Profile], sequences: Sequence[np.ndarray], reads: int = 1) -> list[str]:
    """Names of the profiles that hold one pass over all these sequences."""
    read = [{"score": np.arange(len(ids) - min(reads, len(ids)), len(ids))} for ids in sequences]
    given = [TokenSequence(ids=ids, reads=r) for ids, r in zip(sequences, read, strict=True)]
    feeds = pack(given, SHAPE).feeds
    sizes = {dim: size for name, dims in DIMENSIONS.items() for dim, size in zip(dims, feeds[name].shape, strict=True)}
    assert set(sizes) == set(profiles[0].dimensions)
    return [
        profile.name
        for profile in profiles
        if all(profile.dimensions[dim].least <= size <= profile.dimensions[dim].most for dim, size in sizes.items())
    ]


def planned(sequences: Sequence[np.ndarray], tokens: int = 16384) -> list[list[np.ndarray]]:
    return [[sequences[i] for i in batch] for batch in plan_batches(sequences, tokens)]


def test_a_single_sequence_of_any_length_fits() -> None:
    """Lengths where packing changes the size of its blocks are among these."""
    profiles = packed_profiles(limits())
    lengths = [*range(1, 2400, 13), 129, 311, 725, 2048, 2049, 2176, 4095, 8191, 8192]
    for length in lengths:
        names = fitting(profiles, [random_ids(length, 0)])
        assert names[:1] == (["latency"] if length <= 2048 else ["long"]), length


def test_ragged_passes_fit_as_planned() -> None:
    lengths = np.random.default_rng(0).integers(64, 2049, 64)
    profiles = packed_profiles(limits())
    for batch in planned([random_ids(int(length), i) for i, length in enumerate(lengths)]):
        assert "throughput" in fitting(profiles, batch)


def test_short_conversations_fit_as_planned() -> None:
    lengths = np.random.default_rng(1).integers(60, 200, 300)
    profiles = packed_profiles(limits())
    for batch in planned([random_ids(int(length), i) for i, length in enumerate(lengths)]):
        assert len(batch) > 60
        assert "throughput" in fitting(profiles, batch)


@pytest.mark.parametrize(("prompt", "answer", "profile"), [(1024, 512, "throughput"), (6000, 500, "long")])
def test_best_of_sixteen_fits(prompt: int, answer: int, profile: str) -> None:
    shared = random_ids(prompt, 99)
    sequences = [np.concatenate([shared, random_ids(answer, i)]) for i in range(16)]
    for batch in planned(sequences, 14000):
        assert profile in fitting(packed_profiles(limits(tokens=14000)), batch)


def test_steps_of_a_solution_fit() -> None:
    assert "latency" in fitting(packed_profiles(limits()), [random_ids(900, 0)], reads=60)


def test_what_a_profile_holds_stays_inside_the_budget() -> None:
    for profile in packed_profiles(limits()):
        d = profile.dimensions
        assert d["R"].most * d["Sk"].most <= SLOTS_8B
        assert d["read_R"].most * d["read_Sk"].most <= SLOTS_8B
        assert all(1 <= e.least <= e.tuned <= e.most for e in d.values())


@pytest.mark.parametrize("length", [16, 60, 512, 2048, 2049, 8000])
@pytest.mark.parametrize("tokens", [16, 300, 16384])
def test_profiles_of_any_limits_are_in_order(length: int, tokens: int) -> None:
    profiles = packed_profiles(limits(length=length, tokens=tokens))
    assert [p.name for p in profiles] == ["latency", "throughput", "long"][: 3 if length > 2048 else 2]
    padded = padded_profiles(limits(length=length, tokens=tokens), "B", "S")
    assert [p.name for p in padded] == ["latency", "throughput", "long"][: 3 if length > 512 else 2]
    for profile in (*profiles, *padded):
        assert all(1 <= e.least <= e.tuned <= e.most for e in profile.dimensions.values())
    assert fitting(profiles, [random_ids(length, 0)])
    assert max(p.dimensions["S"].most for p in padded) == length


def test_a_sequence_longer_than_a_batch_fits_alone() -> None:
    assert fitting(packed_profiles(limits(length=4096, tokens=1024)), [random_ids(4096, 0)]) == ["long"]


@pytest.mark.parametrize("slots", [50_000, 524_287, SLOTS_8B, 1 << 24])
def test_the_longest_length_is_the_longest_that_fits(slots: int) -> None:
    length = longest_packed(slots, QUERY_BLOCK, KEY_MULTIPLE)
    assert length % KEY_MULTIPLE == 0
    assert limits().rows(length) * length <= slots
    longer = length + 3 * KEY_MULTIPLE
    assert (limits().rows(longer) + 1) * longer > slots
    assert fitting(packed_profiles(limits(length=length, slots=slots)), [random_ids(length, 0)])


def test_lengths_that_cannot_be_are_refused() -> None:
    assert chosen_length(None, 131072, 15040) == 15040
    assert chosen_length(None, 4096, 15040) == 4096
    assert chosen_length(1000, 4096, 15040) == 1000
    with pytest.raises(OptionError, match="the model takes sequences of up to 4096 tokens"):
        chosen_length(5000, 4096, 15040)
    with pytest.raises(OptionError, match="use --max-length 15040"):
        chosen_length(16000, 131072, 15040)


def test_padded_passes_fit() -> None:
    profiles = padded_profiles(limits(length=512, slots=60_000_000), "B", "S")
    latency, throughput = (p.dimensions for p in profiles)
    assert (latency["B"].tuned, latency["S"].tuned, latency["S"].most) == (1, 512, 512)
    assert throughput["B"].tuned * throughput["S"].tuned == 16384
    assert throughput["B"].most * throughput["S"].most ** 2 <= 60_000_000
