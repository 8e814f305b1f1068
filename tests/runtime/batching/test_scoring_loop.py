"""The one loop: what is scored from requests, from tokenized requests and from raw outputs is the same, in windows."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conversations import ragged_records
from rmexport import export
from rmruntime import BackendError, BundleError, DeviceLimit, DeviceMemoryError, InputError, RewardModel, ScoreOptions
from rmruntime.backends import load_backend
from rmruntime.backends.base import Feeds, Outputs
from rmruntime.batching import prefetch
from rmruntime.batching.scoring_loop import Encoded, ScoringLoop
from rmruntime.bundle import Bundle
from rmruntime.executors import DirectExecutor
from rmruntime.options import EngineOptions
from rmruntime.records import Request, parse_record
from rmruntime.sequences import TokenSequence
from tiny_checkpoints import gated

OPTIONS = ScoreOptions()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loop")
    export(str(gated(folder / "c").folder), folder / "b")
    return folder / "b"


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[RewardModel]:
    with RewardModel.load(bundle, device="ort-cpu") as loaded:
        yield loaded


def requests(count: int) -> list[Request]:
    return [parse_record(record) for record in ragged_records(count)]


def sequences(model: RewardModel, count: int) -> list[TokenSequence]:
    encoded = model.encode(requests(count), OPTIONS)
    return [sequence for found in encoded if not isinstance(found, InputError) for sequence in found]


def test_raw_outputs_are_those_that_scores_are_made_of(model: RewardModel) -> None:
    outcomes = list(model.stream_outputs(sequences(model, 6), OPTIONS))
    scores = model.score(ragged_records(6))
    for outcome, score in zip(outcomes, scores, strict=True):
        assert not isinstance(outcome, DeviceLimit) and not isinstance(score, list)
        assert outcome["score"].tolist() == [score.value]
        assert score.rewards is not None and outcome["rewards"].tolist() == [list(score.rewards.values())]


@pytest.mark.parametrize("ahead", [1, 3, 2048])
def test_windows_change_no_bit_of_raw_outputs(model: RewardModel, monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    """`verify` reports the same numbers however many conversations are computed together."""
    given = sequences(model, 7)
    together = list(model.stream_outputs(given, OPTIONS))
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", ahead)
    told: list[int] = []
    for items in (given, iter(given)):
        in_windows = list(model.stream_outputs(items, OPTIONS, told.append))
        for one, other in zip(together, in_windows, strict=True):
            assert not isinstance(one, DeviceLimit) and not isinstance(other, DeviceLimit)
            assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    assert sum(told) == 2 * len(given)


def test_tokenized_requests_are_one_window_with_errors_in_their_place(
    model: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 2)
    mixed = [*requests(3), parse_record({"input_ids": [10**6]}), *requests(2)]
    encoded = model.encode(mixed, OPTIONS)
    run, apart = model.run(mixed, OPTIONS), model.run_encoded(mixed, encoded, OPTIONS)
    assert [str(result) for result in apart.results] == [str(result) for result in run.results]
    assert apart.results[3] is encoded[3] and isinstance(encoded[3], InputError)
    assert apart.statistics.passes == 1 and run.statistics.passes == 3
    assert model.run_encoded([], [], OPTIONS).results == []


class NarrowBackend:
    """An engine whose memory holds passes of few tokens."""

    def __init__(self, opened: Bundle, most: int) -> None:
        self._engine = load_backend(opened, EngineOptions(device="ort-cpu"))
        self._most = most
        self.name, self.precision, self.graph = "narrow", self._engine.precision, self._engine.graph
        self.batch_tokens = self._engine.batch_tokens

    def run(self, feeds: Feeds) -> Outputs:
        if len(feeds["input_ids"]) > self._most:
            raise DeviceMemoryError("too few bytes")
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


def test_what_the_device_cannot_compute_is_told_in_its_place(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    with RewardModel(opened, NarrowBackend(opened, 200)) as model:
        [fits] = sequences(model, 1)
        too_long = TokenSequence(ids=np.full(250, 5), reads={role: np.array([80]) for role in fits.reads})
        found = list(model.stream_outputs([fits, too_long, fits], ScoreOptions(max_batch_tokens=200)))
    assert [isinstance(outcome, DeviceLimit) for outcome in found] == [False, True, False]
    assert "one sequence of 250" in str(found[1])


def test_the_loop_takes_windows_of_anything(bundle: Path) -> None:
    """Items are the caller's: here names, each with sequences of its own, none, or an error."""
    opened = Bundle.open(bundle)
    with RewardModel(opened, load_backend(opened, EngineOptions(device="ort-cpu"))) as model:
        own = sequences(model, 3)
        known: dict[str, tuple[TokenSequence, ...] | InputError] = {
            "two": tuple(own[:2]), "none": (), "bad": InputError("no such name"), "one": (own[2],)
        }  # fmt: skip

        def encode(names: object) -> Encoded:
            return [known[name] for name in names]  # type: ignore[attr-defined] # of one type with the windows

        loop = ScoringLoop(opened, DirectExecutor(load_backend(opened, EngineOptions(device="ort-cpu"))))
        windows = list(loop.run([["two", "none"], None, ["bad", "one"]], encode))
        loop.close()
    assert [window.items for window in windows] == [["two", "none"], ["bad", "one"]]
    assert [window.statistics.sequences for window in windows] == [2, 1]
    [[two, none], [bad, one]] = [window.computed for window in windows]
    assert not isinstance(two, InputError) and [sequence for sequence, _ in two] == own[:2] and none == []
    assert bad is known["bad"] and not isinstance(one, InputError) and len(one) == 1


def test_weights_that_change_end_the_loop(bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b"
    shutil.copytree(bundle, copy)
    with RewardModel.load(copy, device="ort-cpu") as model:
        given = sequences(model, 2)
        for path in copy.glob("*.safetensors"):
            path.write_bytes(path.read_bytes())
        with pytest.raises(BundleError, match="was changed while it was loaded"):
            list(model.stream_outputs(given, OPTIONS))


def test_an_engine_that_fails_ends_the_loop(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Bundle.open(bundle)
    backend = NarrowBackend(opened, 10**6)

    def broken(feeds: Feeds) -> Outputs:
        raise BackendError("no such device any more")

    with RewardModel(opened, backend) as model:
        given = sequences(model, 2)
        monkeypatch.setattr(backend, "run", broken)
        with pytest.raises(BackendError, match="no such device"):
            next(model.stream_outputs(given, OPTIONS))
