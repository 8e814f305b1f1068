"""What `verify` scores: built-in conversations that fit, or the records of a file, read in windows."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conversations import ragged_records
from rmexport import VerificationError, export
from rmexport.verify.conversations import read_conversations, verification_records
from rmexport.verify.options import VerifyOptions
from rmruntime import RewardModel
from rmruntime.batching import prefetch
from tiny_checkpoints import TinyShape, sequence_classifier

PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RewardModel]:
    folder = tmp_path_factory.mktemp("conversations")
    export(str(sequence_classifier(folder / "c", TinyShape(max_position_embeddings=256)).folder), folder / "b")
    with RewardModel.load(folder / "b", device="ort-cpu") as loaded:
        yield loaded


def data(folder: Path, *records: Any) -> VerifyOptions:
    path = folder / "data.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return VerifyOptions(data=path)


def test_windows_change_nothing(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_conversations(model, VerifyOptions(conversations=24))
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", 5)
    parts = read_conversations(model, VerifyOptions(conversations=24))
    assert [s.ids.tolist() for s in parts.sequences] == [s.ids.tolist() for s in whole.sequences]
    assert parts.left_out == whole.left_out > 0 and len(whole.sequences) + whole.left_out == 24


@pytest.mark.parametrize("ahead", [2, 2048])
def test_a_line_that_is_no_record_is_told_with_its_file_and_number(
    model: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", ahead)
    options = data(tmp_path, *ragged_records(3), "{broken")
    with pytest.raises(VerificationError, match=r"^\S*data\.jsonl, line 4 \(record 3\): found text"):
        read_conversations(model, options)


@pytest.mark.parametrize("ahead", [2, 2048])
def test_a_record_that_cannot_be_scored_is_told_with_its_id(
    model: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """Too long records of one's own data too: they are left out of the built-in set alone."""
    monkeypatch.setattr(prefetch, "RECORDS_AHEAD", ahead)
    bad = {"id": "long", "prompt": "Why?", "response": "word " * 400}
    with pytest.raises(VerificationError, match=r"record 'long' cannot be scored: .*tokens"):
        read_conversations(model, data(tmp_path, *ragged_records(3), bad))


def test_an_empty_file_and_a_set_that_is_too_long(model: RewardModel, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(VerificationError, match="holds no records; expected at least one conversation"):
        read_conversations(model, data(tmp_path))
    monkeypatch.setattr(
        "rmexport.verify.conversations.verification_records",
        lambda *count, **form: [{"prompt": "a", "response": "word " * 400}],
    )
    with pytest.raises(VerificationError, match="no built-in conversation fits into 256 tokens"):
        read_conversations(model, VerifyOptions())


def test_pairs_are_compared_where_all_records_are_pairs(model: RewardModel, tmp_path: Path) -> None:
    assert read_conversations(model, data(tmp_path, PAIR, PAIR)).pairs == [(0, 1), (2, 3)]
    mixed = read_conversations(model, data(tmp_path, PAIR, *ragged_records(1)))
    assert mixed.pairs == [] and len(mixed.sequences) == 3


def test_the_built_in_set_is_the_same_every_time() -> None:
    assert verification_records(5) == verification_records(5) != verification_records(5, seed=1)
    assert [len(verification_records(count)) for count in (1, 2, 5)] == [1, 2, 5]
    assert all(record["steps"] for record in verification_records(4, steps=True))
    assert [set(record) for record in verification_records(5, pairs=True)] == [{"id", *PAIR}] * 2
