"""The record writer: complete files or none, numbers as they are."""

import json
import os
import resource
import sys

import numpy as np
import pytest

from rmruntime.errors import OutputError, RewardModelError
from rmruntime.records.writer import keep_lines, open_writer

RECORDS = [{"id": 0, "score": 0.1 + 0.2}, {"id": "ü", "rewards": {"a": -1.5}}]


def test_json_lines_are_written_beside_and_renamed(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with open_writer(path) as writer:
        for record in RECORDS:
            writer.write(record)
        assert path.read_text() == "old"
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == RECORDS
    assert "0.30000000000000004" in path.read_text() and "ü" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_an_interrupted_run_leaves_nothing(tmp_path, name):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path / name) as writer:
        writer.write(RECORDS[0])
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_standard_output(capsys):
    with open_writer("-") as writer:
        writer.write(RECORDS[0])
    assert json.loads(capsys.readouterr().out) == RECORDS[0]


def test_standard_output_in_an_encoding_without_the_characters(monkeypatch, tmp_path):
    with (tmp_path / "console").open("w", encoding="ascii") as console:
        monkeypatch.setattr(sys, "stdout", console)
        with open_writer(None) as writer:
            writer.write(RECORDS[1])
    assert json.loads((tmp_path / "console").read_text()) == RECORDS[1]


def test_numpy_values_and_numbers_that_are_not_finite(tmp_path):
    path = tmp_path / "out.jsonl"
    with open_writer(path) as writer:
        writer.write({"id": np.int64(1), "scores": np.array([0.5], dtype=np.float32)})
    assert json.loads(path.read_text()) == {"id": 1, "scores": [0.5]}
    with pytest.raises(RewardModelError, match="record 1: found a number that is not finite"), open_writer(path) as out:
        out.write({"id": 1, "score": float("nan")})


def test_special_files_are_not_replaced(tmp_path):
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    with open_writer(link) as writer:
        writer.write(RECORDS[0])
    assert link.is_symlink() and link.is_char_device()


def test_a_full_disk_is_an_error():
    with pytest.raises(RewardModelError, match="/dev/full: cannot be written"), open_writer("/dev/full") as writer:
        writer.write(RECORDS[0])


def test_a_symlink_keeps_pointing_at_its_file(tmp_path):
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    (tmp_path / "real.jsonl").write_text("")
    with open_writer(tmp_path / "link.jsonl") as writer:
        writer.write(RECORDS[0])
    assert (tmp_path / "link.jsonl").is_symlink() and json.loads((tmp_path / "real.jsonl").read_text()) == RECORDS[0]


def test_targets_that_cannot_be_written(tmp_path):
    with pytest.raises(RewardModelError, match="does not exist; make it first"):
        open_writer(tmp_path / "absent" / "out.jsonl")
    with pytest.raises(RewardModelError, match="found a folder"):
        open_writer(tmp_path)
    with pytest.raises(RewardModelError, match="cannot be written"):
        open_writer(tmp_path / ("x" * 300))


def test_parquet_holds_every_key_and_makes_mixed_ids_strings(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with open_writer(tmp_path / "out.parquet") as writer:
        for record in RECORDS:
            writer.write(record)
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert rows[0] == {"id": "0", "score": 0.1 + 0.2, "rewards": None}
    assert rows[1] == {"id": "ü", "score": None, "rewards": {"a": -1.5}}


def test_parquet_refuses_what_is_no_table(tmp_path):
    pytest.importorskip("pyarrow")
    with (
        pytest.raises(RewardModelError, match="cannot be written as a Parquet table"),
        open_writer(tmp_path / "o.parquet") as out,
    ):
        out.write({"id": 0, "score": 1.0})
        out.write({"id": 1, "score": "high"})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def room():
    """Sets how many bytes a file may have: what lies beyond fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_disk_that_becomes_full_keeps_the_whole_records(tmp_path, room):
    room(100)
    with open_writer(tmp_path / "out.jsonl") as writer:
        with pytest.raises(OutputError, match=r"out\.jsonl: cannot be written \(File too large\)"):
            for number in range(100):
                writer.write({"id": number, "score": 0.25})
        kept = writer.salvage()
    assert kept == f"{tmp_path / 'out.jsonl.partial'} (4 records)"
    assert [record["id"] for record in lines(tmp_path / "out.jsonl.partial")] == [0, 1, 2, 3]
    assert os.listdir(tmp_path) == ["out.jsonl.partial"]


def test_a_table_that_has_no_room_is_kept_as_lines_where_there_is_some(tmp_path, room, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    with open_writer(tmp_path / "out.parquet") as writer:
        for number in range(9):
            writer.write({"id": number, "score": 0.25})
        room(100)
        with pytest.raises(OutputError, match="cannot be written"):
            writer.finish()
        kept = writer.salvage()
    assert kept is not None and kept.endswith("out.parquet.jsonl.partial (4 records)")
    assert [record["id"] for record in lines(tmp_path / "out.parquet.jsonl.partial")] == [0, 1, 2, 3]
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "out.parquet.jsonl.partial"]
    assert not os.listdir(tmp_path / "elsewhere")


def test_lines_are_kept_in_the_first_folder_that_holds_all(tmp_path):
    (tmp_path / "b").mkdir()
    kept = keep_lines("out", (tmp_path / "absent", tmp_path / "b", tmp_path), RECORDS)
    assert kept == f"{tmp_path / 'b' / 'out.jsonl.partial'} (2 records)"
    assert keep_lines("out", (tmp_path / "absent",), RECORDS) is None


def test_rows_that_are_no_table_are_kept_as_lines(tmp_path):
    pytest.importorskip("pyarrow")
    with open_writer(tmp_path / "out.parquet") as writer:
        writer.write({"id": 0, "rewards": {"a": 1.0}})
        writer.write({"id": 1, "rewards": [{"a": 1.0}]})
        with pytest.raises(OutputError, match="cannot be written as a Parquet table"):
            writer.finish()
        writer.salvage()
    assert [record["id"] for record in lines(tmp_path / "out.parquet.jsonl.partial")] == [0, 1]


def test_a_pipe_whose_reader_has_gone(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with open_writer(tmp_path / "pipe") as writer:
        writer.write(RECORDS[0])
        os.close(reader)
        with pytest.raises(OutputError, match="its reader closed the pipe"):
            writer.write(RECORDS[1])
        assert writer.salvage() is None
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_file_that_cannot_get_its_name_keeps_its_records(tmp_path):
    with open_writer(tmp_path / "out.jsonl") as writer:
        writer.write(RECORDS[0])
        (tmp_path / "out.jsonl").mkdir()
        with pytest.raises(OutputError, match="cannot be written"):
            writer.finish()
        writer.salvage()
    assert lines(tmp_path / "out.jsonl.partial") == [RECORDS[0]]


def test_salvaged_records_replace_no_earlier_ones(tmp_path):
    for number in range(3):
        with open_writer(tmp_path / "out.jsonl") as writer:
            writer.write({"id": number})
            writer.salvage()
    names = ("out.jsonl.partial", "out.jsonl.partial-2", "out.jsonl.partial-3")
    assert [lines(tmp_path / name) for name in names] == [[{"id": number}] for number in range(3)]


@pytest.mark.parametrize("name", ["out.jsonl", "out.parquet"])
def test_two_writers_of_one_process_id_do_not_share_a_file(tmp_path, monkeypatch, name):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as the first process of every container has
    with open_writer(tmp_path / name) as one, open_writer(tmp_path / name) as two:
        one.write({"id": 1})
        two.write({"id": 2})
        assert len(os.listdir(tmp_path)) == 2
        one.finish()
        assert (tmp_path / name).stat().st_size > 0
        two.finish()
    assert os.listdir(tmp_path) == [name]


def test_names_as_long_as_there_are(tmp_path):
    name = "x" * 250 + ".txt"
    with open_writer(tmp_path / name) as writer:
        writer.write(RECORDS[0])
    assert os.listdir(tmp_path) == [name]
    with open_writer(tmp_path / name) as writer:
        writer.write(RECORDS[1])
        assert writer.salvage() is not None  # under its temporary name: there is no longer one


def test_parquet_refuses_ids_beyond_64_bits(tmp_path):
    pytest.importorskip("pyarrow")
    with open_writer(tmp_path / "out.parquet") as table, open_writer(tmp_path / "out.jsonl") as text:
        for identity in (2**63, -(2**63) - 1, 2**64):
            assert "64 bits" in (table.refusal(identity) or "") and text.refusal(identity) is None
        for identity in (2**63 - 1, -(2**63), "x", 1.5, True):
            assert table.refusal(identity) is None


def test_ids_of_mixed_types_are_what_json_calls_them(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    with open_writer(tmp_path / "out.parquet") as writer:
        for identity in (1, "1", 1.5, True):
            writer.write({"id": identity})
    assert parquet.read_table(tmp_path / "out.parquet")["id"].to_pylist() == ["1", "1", "1.5", "true"]
