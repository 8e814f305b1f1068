"""Blocks hold every record once, with the numbers, names and faults that reading the whole file gives."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from rmruntime.cluster.blocks import block_size, cut_blocks, read_block
from rmruntime.errors import ClusterError, InputError, RewardModelError
from rmruntime.records.reader import read_records

LINES = ["\ufeff" + '{"text": "first"}', "", '{"id": "x", "text": "b\u2028c"}', "{broken", "  ", '{"text": "last"}']


def told(records: Any) -> list[tuple[int, Any]]:
    return [(number, str(r) if isinstance(r, InputError) else r) for number, r in records]


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("size", [1, 2, 4, 100])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_lines(tmp_path: Path, size: int, end: str) -> None:
    path = written(tmp_path / "in.jsonl", "\n".join(LINES) + end)
    blocks = list(cut_blocks([path], size))
    assert [r for block in blocks for r in told(read_block(block, path))] == told(read_records(path))
    assert all(a.end == b.start and a.record + a.count == b.record for a, b in pairwise(blocks))
    assert blocks[-1].end == path.stat().st_size


def test_several_files_are_numbered_through_and_faults_have_their_own_line(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{i}.jsonl", "\n".join(LINES)) for i in range(2)]
    blocks = list(cut_blocks(paths, 4))
    assert [(b.index, b.file, b.first, b.count, b.record) for b in blocks] == [
        (0, 0, 0, 4, 0), (1, 0, 4, 2, 4), (2, 1, 0, 4, 6), (3, 1, 4, 2, 10),
    ]  # fmt: skip
    assert [r.records for r in blocks[1:3]] == ["records 4 to 5", "records 6 to 9"]
    first, *_, broken = told(read_block(blocks[2], paths[1]))
    assert first[0] == 6 and not isinstance(first[1], str)  # the mark at the beginning of its file is passed over
    assert "1.jsonl, line 4 (record 9): " in broken[1]


@pytest.mark.parametrize("groups", [3, 10, 100])
@pytest.mark.parametrize("size", [1, 4, 7, 50])
def test_rows(tmp_path: Path, groups: int, size: int) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    texts = [None if i == 13 else f"text {i}" for i in range(23)]
    path = tmp_path / "in.parquet"
    parquet.write_table(pyarrow.table({"text": texts, "source": ["s"] * 23}), path, row_group_size=groups)
    blocks = list(cut_blocks([path], size))
    assert [r for block in blocks for r in told(read_block(block, path))] == told(read_records(path))


def test_an_empty_file_is_an_empty_block(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "in.parquet")
    paths = [written(tmp_path / "in.jsonl", ""), tmp_path / "in.parquet"]
    blocks = list(cut_blocks(paths, 10))
    assert [(b.file, b.count) for b in blocks] == [(0, 0), (1, 0)]
    assert [list(read_block(b, path)) for b, path in zip(blocks, paths, strict=True)] == [[], []]


def test_an_input_that_changed_is_not_scored(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", '{"text": "a"}\n{"text": "b"}\n')
    one, two = cut_blocks([path], 1)
    written(path, '{"text": "a"}\n{"text": "c"}\n')
    assert len(list(read_block(one, path))) == 1
    with pytest.raises(ClusterError, match="records 1 to 1 are no longer what they were"):
        read_block(two, path)
    path.unlink()
    with pytest.raises(ClusterError, match="cannot be read here"):
        read_block(two, path)


def test_small_inputs_have_small_blocks(tmp_path: Path) -> None:
    small = written(tmp_path / "small.jsonl", "{}\n" * 1000)
    large = written(tmp_path / "large.jsonl", "{}\n" * 100_000)
    assert [block_size(files) for files in ([small], [large], [large] * 20)] == [128, 390, 2048]


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = written(tmp_path / "in.parquet", json.dumps({"text": "a"}))
    with pytest.raises(RewardModelError, match="no readable Parquet table"):
        list(cut_blocks([path], 10))


ARRAYS = [
    "[]", '[{"text": "a"}]', ' \n [ {"text": "a"} , {"text": "b"},\n{"text": "]"}] ',
    '[{"text": "a"},,{"text": "c"}, ]', '[{"text": "a"},',
    '[{"text": "a"},{"te', '[{"text": "a"}] tail', "[", '\ufeff[{"text": "a"},\n5]', "[,]",
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 10])
@pytest.mark.parametrize("text", ARRAYS)
def test_items_of_an_array(tmp_path: Path, text: str, size: int) -> None:
    path = written(tmp_path / "in.json", text)
    blocks = list(cut_blocks([path], size))
    assert [r for block in blocks for r in told(read_block(block, path))] == told(read_records(path))
    assert block_size([path]) == 128
