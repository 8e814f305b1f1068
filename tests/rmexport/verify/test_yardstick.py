"""What the reference costs is said before, what was computed is kept, and a clock of the tests' own tells the time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rmexport import VerificationError
from rmexport.output.progress import Watcher
from rmexport.output.staging_folder import ignore
from rmexport.verify import yardstick
from rmexport.verify.reference import ReferenceScores
from rmexport.verify.reference_cache import ReferenceCache
from rmexport.verify.reference_pass import Meter, SequenceStates
from rmexport.verify.yardstick import compute_yardsticks, duration
from rmruntime.sequences import TokenSequence

LOADING = 2.0
NOW = 1.7e9


class FakeReference:
    """Takes `costs` seconds a token by its own clock; the score of a sequence is the sum of its ids."""

    def __init__(self, **costs: float) -> None:
        self.costs, self.time = costs, 0.0
        self.passes: list[tuple[str, list[int]]] = []
        self.interrupt_at: int | None = None

    def clock(self) -> float:
        return self.time

    def states(self, sequences: Sequence[TokenSequence], dtype: str, meter: Meter) -> list[SequenceStates]:
        if len(self.passes) == self.interrupt_at:
            raise KeyboardInterrupt
        self.passes.append((dtype, [int(s.ids[0]) for s in sequences]))
        with meter.loading():
            self.time += LOADING
        for i, sequence in enumerate(sequences):
            with meter.computing(len(sequence.ids), first=i == 0):
                self.time += self.costs[dtype] * len(sequence.ids) + 100.0 * (i == 0)  # starting up is slow
        values = [np.array([[s.ids.sum()]], np.float32) for s in sequences]
        return [SequenceStates(values={"score": x}, peaks={"layers.0": float(x[0, 0])}) for x in values]

    def scores(self, states: Sequence[SequenceStates], dtype: str) -> ReferenceScores:
        return ReferenceScores({"score": np.concatenate([s.values["score"] for s in states])}, ())


def conversations(count: int, length: int = 10) -> list[TokenSequence]:
    return [TokenSequence(ids=np.arange(i, i + length), reads={"score": np.array([length - 1])}) for i in range(count)]


def key(check: Callable[[], None] = lambda: None) -> Any:
    """In place of a ReferenceKey."""
    return SimpleNamespace(
        digest=lambda dtype: f"{'fp32 bf16 fp16'.index(dtype):064x}",
        checkpoint=SimpleNamespace(folder=Path("c")),
        check=check,
    )


class Run:
    """One run over a folder, None for no cache: what was told and what it gave."""

    def __init__(
        self, reference: FakeReference, sequences: Sequence[TokenSequence], folder: Path | None, **more: Any
    ) -> None:
        self.told: list[str] = []
        watcher = Watcher(notify=self.told.append, clock=reference.clock)
        cache = ReferenceCache(folder, self.told.append, now=lambda: NOW)
        dtypes = tuple(reference.costs)
        self.found = compute_yardsticks(reference, sequences, dtypes, more.get("key", key()), cache, watcher)
        self.origins = {dtype: (one.origin.computed, one.origin.kept) for dtype, one in self.found.items()}

    def scores(self, dtype: str) -> list[float]:
        found: list[float] = self.found[dtype].scores.outputs["score"].ravel().tolist()
        return found


def test_the_cost_is_said_by_arithmetic(tmp_path: Path) -> None:
    """64 conversations of 10 tokens: 4 were timed, 600 tokens are left; starting up is no part of the speed."""
    reference = FakeReference(fp32=0.05, bf16=0.3)
    run = Run(reference, conversations(64), tmp_path)
    assert run.told == [
        "transformers in fp32: about 32 s for 60 conversations; transformers in bf16: about 3 min for 60 conversations "
        f"(kept in {tmp_path}: computed once)"
    ]
    assert [len(ids) for _, ids in reference.passes[:2]] == [4, 4]


def test_short_work_is_not_announced(tmp_path: Path) -> None:
    assert Run(FakeReference(fp32=1e-3), conversations(64), tmp_path).told == []
    assert Run(FakeReference(fp32=9.0), conversations(4), tmp_path).told == []  # nothing is left


def test_only_what_is_missing_is_announced(tmp_path: Path) -> None:
    Run(FakeReference(fp32=0.3), conversations(32), tmp_path)
    told = Run(FakeReference(fp32=0.3, bf16=0.3), conversations(32), tmp_path).told
    assert told == [f"transformers in bf16: about 86 s for 28 conversations (kept in {tmp_path}: computed once)"]


def test_without_a_cache_nothing_is_said_of_one() -> None:
    told = Run(FakeReference(fp32=0.3), conversations(32), None).told
    assert told == ["transformers in fp32: about 86 s for 28 conversations"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(6, "6 s"), (99, "99 s"), (100, "2 min"), (193, "3 min"), (5900, "98 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_bars_count_tokens(tmp_path: Path) -> None:
    reference, bars = FakeReference(fp32=1.0), []

    class Bar:
        def __init__(self, title: str, total: int, unit: str) -> None:
            self.shown: list[Any] = [title, total, unit, 0]
            bars.append(self.shown)

        def __enter__(self) -> Callable[[int], None]:
            return self.advance

        def __exit__(self, *error: object) -> None:
            pass

        def advance(self, count: int) -> None:
            self.shown[3] += count

    cache = ReferenceCache(tmp_path, ignore)
    watcher = Watcher(bars=Bar, clock=reference.clock)
    compute_yardsticks(reference, conversations(10), ("fp32",), key(), cache, watcher)
    assert bars == [
        ["transformers in fp32, the first 4 conversations", 40, "tokens", 40],
        ["transformers in fp32", 60, "tokens", 60],
    ]


def test_kept_scores_are_not_computed_again(tmp_path: Path) -> None:
    sequences = conversations(20)
    first = Run(FakeReference(fp32=0.1, bf16=0.1), sequences, tmp_path)
    second = FakeReference(fp32=0.1, bf16=0.1)
    again = Run(second, sequences[::-1], tmp_path)
    assert second.passes == [] and again.told == []
    assert first.origins == {"fp32": (20, 0), "bf16": (20, 0)} and again.origins == {"fp32": (0, 20), "bf16": (0, 20)}
    assert again.scores("bf16") == first.scores("bf16")[::-1]
    assert first.found["fp32"].origin.kept_since is None
    assert again.found["fp32"].origin.kept_since == "2023-11-14T22:13:20+00:00"


def test_more_conversations_need_only_the_others(tmp_path: Path) -> None:
    Run(FakeReference(fp32=0.1), conversations(10), tmp_path)
    reference = FakeReference(fp32=0.1)
    assert Run(reference, conversations(25), tmp_path).origins == {"fp32": (15, 10)}
    assert sorted(i for _, ids in reference.passes for i in ids) == list(range(10, 25))


def test_the_same_conversation_is_computed_once(tmp_path: Path) -> None:
    reference = FakeReference(fp32=0.1)
    run = Run(reference, conversations(5) + conversations(6), tmp_path)
    assert len([i for _, ids in reference.passes for i in ids]) == 6
    assert run.scores("fp32") == run.scores("fp32")[5:10] + run.scores("fp32")[5:] and run.origins["fp32"] == (6, 0)


def test_an_interrupted_run_loses_no_more_than_a_part(tmp_path: Path) -> None:
    """0.5 s a token and 10 tokens each: a part is the 8 conversations that take 40 s, 20 times the loading."""
    reference = FakeReference(fp32=0.5)
    reference.interrupt_at = 3
    told: list[str] = []
    watcher = Watcher(notify=told.append, clock=reference.clock)
    with pytest.raises(KeyboardInterrupt):
        compute_yardsticks(
            reference, conversations(40), ("fp32",), key(), ReferenceCache(tmp_path, told.append), watcher
        )
    assert [len(ids) for _, ids in reference.passes] == [4, 8, 8]
    assert told[-1].startswith("the reference's scores of 20 conversations are kept in") and "again" in told[-1]
    reference = FakeReference(fp32=0.5)
    assert Run(reference, conversations(40), tmp_path).origins == {"fp32": (20, 20)}


def test_without_a_cache_weights_are_loaded_once_more_and_no_oftener() -> None:
    reference = FakeReference(fp32=50.0)
    Run(reference, conversations(40), None)
    assert [len(ids) for _, ids in reference.passes] == [4, 36]


def test_nothing_of_a_checkpoint_that_changed_is_kept(tmp_path: Path) -> None:
    def changed() -> None:
        raise VerificationError("changed")

    with pytest.raises(VerificationError, match="changed"):
        Run(FakeReference(fp32=0.1), conversations(3), tmp_path, key=key(changed))
    assert not list(tmp_path.iterdir())


def test_a_meter_learns_from_what_is_not_the_first() -> None:
    now = [0.0]
    advanced: list[int] = []
    meter = Meter(lambda: now[0], advanced.append)
    for layer in range(3):
        for tokens in (10, 11):
            with meter.computing(tokens / 3, first=layer == 0):
                now[0] += 7.0 if layer == 0 else tokens / 3
    assert meter.speed.per_token == pytest.approx(1.0) and sum(advanced) == 21
    assert meter.speed.seconds(100) == pytest.approx(100.0)
    assert Meter().speed.seconds(5) == 0.0


def test_constants_leave_room_for_interrupts() -> None:
    assert yardstick.KEEP_EVERY <= 60 and yardstick.FIRST < 8
