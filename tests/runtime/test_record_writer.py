"""The record writer: complete files or none, numbers as they are."""

import json
import sys

import numpy as np
import pytest

from rmruntime.errors import RewardModelError
from rmruntime.record_writer import open_writer

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
