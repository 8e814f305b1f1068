"""What INPUT may name on a cluster."""

from pathlib import Path

import pytest

from rmruntime.cluster.input_files import input_files
from rmruntime.errors import RewardModelError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.parquet", ".hidden.jsonl", "_SUCCESS", "notes.txt", "c.ndjson"):
        (tmp_path / name).write_text("")
    (tmp_path / "deeper.jsonl").mkdir()
    return tmp_path


def names(source: Path | str) -> list[str]:
    found = input_files(str(source))
    assert all(path.is_absolute() for path in found)
    return [path.name for path in found]


def test_a_file_a_folder_or_a_pattern(folder: Path) -> None:
    assert names(folder / "b.jsonl") == ["b.jsonl"]
    assert names(folder) == ["a.parquet", "b.jsonl", "c.ndjson"]
    assert names(folder / "[bc].*json*") == ["b.jsonl", "c.ndjson"]


def test_a_name_with_the_characters_of_a_pattern_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "in[1].jsonl").write_text("")
    assert names(tmp_path / "in[1].jsonl") == ["in[1].jsonl"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("-", "standard input"),
        ("nothing.jsonl", "no such file"),
        ("*.csv", "no file matches"),
        ("notes.txt", "the ending .txt"),
        ("deeper.jsonl", "the folder has no .jsonl"),
    ],
)
def test_what_cannot_be_read_is_told(folder: Path, source: str, message: str) -> None:
    with pytest.raises(RewardModelError, match=message):
        input_files(source if source == "-" else str(folder / source))
