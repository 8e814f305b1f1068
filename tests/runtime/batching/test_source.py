"""Sources of requests: an iterable in windows, and what a second source may rely on."""

import queue
import threading
from collections.abc import Iterator, Sequence

import pytest

from conversations import ragged_records
from rmexport import export
from rmruntime import RewardModel, RewardModelError, ScoreOptions
from rmruntime.batching import prefetch
from rmruntime.batching.source import Entry, IterableSource
from rmruntime.records import parse_record
from tiny_checkpoints import sequence_classifier

PATIENCE = 30  # seconds until a test gives up waiting for what never comes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardModel]:
    folder = tmp_path_factory.mktemp("source")
    export(str(sequence_classifier(folder / "c").folder), folder / "b")
    with RewardModel.load(folder / "b", device="cpu") as loaded:
        yield loaded


def entries(count: int) -> list[Entry[int]]:
    return [(number, parse_record(record)) for number, record in enumerate(ragged_records(count))]


def test_a_sequence_has_a_known_number_of_windows_and_an_iterator_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 2)
    given = entries(5)
    windows = IterableSource(given).windows()
    assert isinstance(windows, Sequence) and [len(window) for window in windows] == [2, 2, 1]
    lazy = IterableSource(iter(given)).windows()
    assert isinstance(lazy, Iterator) and [entry for window in lazy for entry in window] == given


class Callers:
    """A second source: callers that wait for their own result, each before it asks again."""

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[Entry[str] | None] = queue.SimpleQueue()

    def windows(self) -> Iterator[list[Entry[str]] | None]:
        while True:
            if self.asked.empty():
                yield None
            first = self.asked.get(timeout=PATIENCE)
            if first is None:
                return
            yield [first]


def test_a_source_that_has_nothing_ready_gets_its_results_first(model: RewardModel) -> None:
    """Two requests of one caller: the second is asked only once the first has its score."""
    callers, given = Callers(), entries(3)
    found: list[tuple[str, object]] = []
    callers.asked.put(("first", given[0][1]))
    for window in model.stream_windows(callers, ScoreOptions()):
        found += [(tag, result) for (tag, _), result in zip(window.entries, window.results, strict=True)]
        callers.asked.put((f"after {len(found)}", given[len(found)][1]) if len(found) < 3 else None)
    expected = model.score(ragged_records(3))
    assert found == list(zip(("first", "after 1", "after 2"), expected, strict=True))


def test_an_error_of_the_source_comes_after_the_results_before_it(model: RewardModel) -> None:
    class Broken:
        def windows(self) -> Iterator[list[Entry[int]]]:
            yield entries(2)
            raise RewardModelError("nobody asks any more")

    seen = []
    with pytest.raises(RewardModelError, match="nobody asks"):
        for window in model.stream_windows(Broken(), ScoreOptions()):
            seen += window.results
    assert seen == model.score(ragged_records(2))
    assert not [t.name for t in threading.enumerate() if t.name.startswith(prefetch.THREAD_NAME)]
