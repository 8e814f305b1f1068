"""Windows one ahead: order, errors in their place, overlap with the engine, and no thread left behind."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conversations import ragged_records
from rmexport import export
from rmruntime import BackendError, InputError, RecordError, RewardModel, RewardModelError, Run, ScoreOptions
from rmruntime.backends import load_backend
from rmruntime.backends.base import Backend, Feeds, Outputs
from rmruntime.batching import prefetch
from rmruntime.batching.prefetch import THREAD_NAME, cut_windows, one_ahead
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph
from rmruntime.options import EngineOptions
from rmruntime.records import Request, parse_record
from rmruntime.score_file import FileOptions, score_file
from rmruntime.text.request_tokenizer import RequestTokenizer
from tiny_checkpoints import sequence_classifier

PATIENCE = 30  # seconds until a test gives up waiting for what never comes


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    export(str(sequence_classifier(folder / "c").folder), folder / "b")
    return folder / "b"


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith(THREAD_NAME)]


class SteppedBackend:
    """An engine each of whose passes calls `before`, with the number of passes begun."""

    def __init__(self, engine: Backend) -> None:
        self._engine = engine
        self.name, self.precision = engine.name, engine.precision
        self.batch_tokens = engine.batch_tokens
        self.graph: Graph = engine.graph
        self.passes = 0

    def before(self) -> None:
        """What a pass waits for, or the error it ends in."""

    def run(self, feeds: Feeds) -> Outputs:
        self.passes += 1
        self.before()
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


def stepped(bundle: Path) -> tuple[RewardModel, SteppedBackend]:
    opened = Bundle.open(bundle, check="fast")
    backend = SteppedBackend(load_backend(opened, EngineOptions(device="cpu")))
    return RewardModel(opened, backend), backend


def requests(count: int) -> list[Request]:
    return [parse_record(record) for record in ragged_records(count)]


def test_windows_hold_every_item_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 3)
    assert list(cut_windows(range(7))) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(cut_windows([])) == []


def test_results_come_in_order_and_at_most_one_item_is_drawn_ahead() -> None:
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for number in range(6):
            drawn.append(number)
            yield number

    with one_ahead(lambda number: number * number, source()) as results:
        for place, result in enumerate(results):
            assert result == place * place
            assert len(drawn) <= place + 2
    assert drawn == list(range(6))


def test_where_no_item_is_ready_all_results_come_first() -> None:
    seen: list[int] = []

    def source() -> Iterator[int | None]:
        yield from (1, 2, None)
        assert seen == [1, 2]
        yield from (None, 3)

    with one_ahead(lambda number: number, source()) as results:
        seen.extend(results)
    assert seen == [1, 2, 3]


def test_one_item_needs_no_thread() -> None:
    with one_ahead(lambda number: threading.current_thread(), [1]) as results:
        assert list(results) == [threading.current_thread()]


def test_errors_of_items_and_of_work_come_after_the_results_before_them() -> None:
    def source() -> Iterator[int]:
        yield from (1, 2)
        raise RewardModelError("the file ends early")

    seen: list[int] = []
    with pytest.raises(RewardModelError, match="ends early"), one_ahead(lambda number: number, source()) as results:
        seen.extend(results)  # extend keeps what came before the error
    assert seen == [1, 2]

    seen = []
    with pytest.raises(ZeroDivisionError), one_ahead(lambda number: 6 // number, (3, 2, 0, 1)) as results:
        for result in results:
            seen.append(result)
    assert seen == [2, 3]


def test_an_interrupt_while_an_item_is_read_ends_at_once() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), one_ahead(lambda number: number, source()) as results:
        next(results)


def test_the_next_window_is_encoded_while_the_engine_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass does not end before the second window is encoded: without overlap it never would."""
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 4)
    model, backend = stepped(bundle)
    encoded = [threading.Event() for _ in range(3)]
    order = iter(encoded)
    encode_many = RequestTokenizer.encode_many

    def told(self: RequestTokenizer, items: list[Request], options: ScoreOptions) -> object:
        outcomes = encode_many(self, items, options)
        next(order).set()
        return outcomes

    def before() -> None:
        ahead = encoded[min(backend.passes, 2)]
        assert ahead.wait(PATIENCE), "the next window was not encoded during the pass"

    monkeypatch.setattr(RequestTokenizer, "encode_many", told)
    monkeypatch.setattr(backend, "before", before)
    with model:
        run = model.run(requests(12), ScoreOptions())
    assert backend.passes == run.statistics.passes == 3


def test_windows_change_no_result(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = parse_record({"input_ids": [10**6]})
    mixed = [*requests(5), bad, *requests(6), bad, bad]
    with RewardModel.load(bundle, device="cpu") as model:
        whole = model.run(mixed, ScoreOptions())
        monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 4)
        told: list[int] = []
        parts = model.run(mixed, ScoreOptions(), told.append)
        assert shown(parts) == shown(whole)
        assert sum(told) == parts.statistics.sequences == whole.statistics.sequences
        assert parts.statistics.given == whole.statistics.given
        assert model.run([], ScoreOptions()).results == []


def test_a_stream_gives_what_a_run_gives_and_reads_two_windows_ahead_at_most(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 3)
    good = ragged_records(9)
    mixed: list[object] = [*good[:4], {"prompt": "a"}, parse_record(good[4]), {"input_ids": [10**6]}, *good[5:], "text"]
    drawn = 0

    def source() -> Iterator[Any]:
        nonlocal drawn
        for record in mixed:
            drawn += 1
            yield record

    with RewardModel.load(bundle, device="cpu") as model:
        expected = iter(model.score(good))
        told: list[int] = []
        for place, result in enumerate(model.stream(source(), advance=told.append)):
            assert drawn <= 3 * (place // 3 + 2)
            if place in (4, 6, 11):
                assert isinstance(result, InputError)
            else:
                assert result == next(expected)
        assert place == len(mixed) - 1 and sum(told) == len(good)
        with pytest.raises(RecordError, match="put a lone one into a list"):
            model.stream(good[0])  # type: ignore[arg-type]


def test_a_stream_that_is_left_begins_nothing_more(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 2)
    model, backend = stepped(bundle)
    with model:
        results = model.stream(ragged_records(20))
        next(results)
        results.close()
    assert backend.passes == 1


def shown(run: Run) -> list[str]:
    return [f"{type(r).__name__}: {r}" if isinstance(r, InputError) else repr(r) for r in run.results]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BackendError("out of memory")])
def test_an_engine_that_fails_ends_the_run(bundle: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 2)
    model, backend = stepped(bundle)

    def before() -> None:
        if backend.passes == 2:
            raise error

    monkeypatch.setattr(backend, "before", before)
    with model, pytest.raises(type(error)):
        model.run(requests(10), ScoreOptions())
    assert backend.passes == 2


def test_a_file_in_windows_gives_the_same_records(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps(record) for record in ragged_records(7)]
    lines[3:3] = ["{broken", "", '{"prompt": "a"}']
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(lines) + "\n")
    files = [
        FileOptions(input=str(source), output=str(tmp_path / f"{name}.jsonl"), on_error="skip") for name in ("a", "b")
    ]
    whole = score_file(str(bundle), files[0], ScoreOptions())
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 2)
    parts = score_file(str(bundle), files[1], ScoreOptions())
    assert (tmp_path / "a.jsonl").read_text() == (tmp_path / "b.jsonl").read_text()
    assert (parts.records, parts.errors) == (whole.records, whole.errors) == (9, 2)
    with pytest.raises(InputError, match="line 4"):
        score_file(str(bundle), FileOptions(input=str(source), output=str(tmp_path / "c.jsonl")), ScoreOptions())
    assert not (tmp_path / "c.jsonl").exists()
