"""Record files: JSON lines and Parquet in, with the place of every fault."""

import io
import json
import sys

import pytest

from rmruntime import record_files
from rmruntime.errors import InputError, RecordError, RewardModelError
from rmruntime.record_files import read_records
from rmruntime.records import Conversation, Request


def text_request(text, identity=None):
    return Request(kind="single", conversations=(Conversation(text=text),), id=identity)


def test_lines_are_numbered_from_zero_and_blank_ones_skipped(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"text": "a"}\r\n\n  \n{"text": "b\\u2028c", "id": "x"}')
    assert list(read_records(path)) == [(0, text_request("a")), (3, text_request("b\u2028c", "x"))]


def test_byte_order_mark_and_raw_line_separators(tmp_path):
    path = tmp_path / "in.json"
    path.write_bytes('\ufeff{"text": "a\u2028\u0085b"}\n'.encode())  # U+2028 does not end a line of JSON lines
    assert list(read_records(str(path))) == [(0, text_request("a\u2028\u0085b"))]


def test_faults_are_yielded_with_their_line_and_reading_goes_on(tmp_path):
    path = tmp_path / "in.jsonl"
    lines = [b"[1,", b'{"text": "\xff"}', b'{"txt": "a"}', b"[" * 100_000, b'{"text": "a", "id": ' + b"9" * 5000 + b"}"]
    path.write_bytes(b"\n".join([*lines, b'{"text": "good"}']))
    *faults, good = read_records(path)
    assert good == (5, text_request("good"))
    assert all(isinstance(error, RecordError) for _, error in faults)
    told = ["found text that is not JSON", "not UTF-8 at byte 10", "unknown key 'txt'; did you mean text"]
    for (number, error), message in zip(faults, [*told, "cannot be read", "cannot be read"], strict=True):
        assert f"in.jsonl, line {number + 1} (record {number}): " in str(error) and message in str(error)


def test_a_json_array_is_told_what_is_expected(tmp_path):
    path = tmp_path / "in.json"
    path.write_text(json.dumps([{"text": "a"}], indent=1))
    _, error = next(read_records(path))
    assert isinstance(error, InputError) and "expected one object a line" in str(error)


def test_standard_input_and_open_files(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b'{"text": "a"}\n'))
    monkeypatch.setattr(sys, "stdin", stream)
    assert list(read_records("-")) == [(0, text_request("a"))]
    assert list(read_records(io.StringIO('{"text": "a"}\n'))) == [(0, text_request("a"))]
    assert list(read_records(io.BytesIO(b'{"text": "a"}\n'))) == [(0, text_request("a"))]


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RewardModelError, match="found nothing, expected a file"):
        read_records(tmp_path / "absent.jsonl")
    with pytest.raises(RewardModelError, match="found a folder"):
        read_records(tmp_path)
    (tmp_path / "in.csv").write_text("a,b\n")
    with pytest.raises(RewardModelError, match=r"ending .csv, expected .jsonl, .json or .parquet"):
        read_records(tmp_path / "in.csv")


def test_a_damaged_parquet_file(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "in.parquet").write_text("no table")
    with pytest.raises(RewardModelError, match="no readable Parquet table"):
        list(read_records(tmp_path / "in.parquet"))


def test_parquet_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    turns = [{"role": "user", "content": "Why?"}]
    rows = {"messages": [turns, None, turns], "text": [None, "a", None], "id": ["x", None, "z"], "source": [1, 2, 3]}
    parquet.write_table(pyarrow.table(rows | {"prompt": [None, None, "odd"]}), tmp_path / "in.parquet")
    first, second, (number, error) = read_records(tmp_path / "in.parquet")
    assert first[1].id == "x" and first[1].conversations[0].messages[0].content == "Why?"
    assert second == (1, text_request("a"))
    assert number == 2 and "in.parquet, row 3 (record 2): " in str(error)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RewardModelError, match=r"pip install 'rmruntime\[parquet\]'"):
        record_files.import_pyarrow(tmp_path / "in.parquet")
