"""Record files: JSON lines and Parquet in, with the place of every fault."""

import io
import json
import os
import sys

import numpy as np
import pytest

from rmruntime.errors import RecordError, RewardModelError
from rmruntime.records import Conversation, Request, reader
from rmruntime.records.reader import read_records


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


def test_a_json_array(tmp_path):
    path = tmp_path / "in.json"
    items = [{"text": "a"}, {"text": 'b]"}\\', "id": "x"}, 5, {"text": "c"}]
    for text in (json.dumps(items), json.dumps(items, indent=1), "\ufeff \n" + json.dumps(items, ensure_ascii=False)):
        path.write_text(text)
        one, two, (number, error), three = read_records(path)
        assert (one, two, three) == ((0, text_request("a")), (1, text_request('b]"}\\', "x")), (3, text_request("c")))
        assert number == 2 and "in.json, item 3 (record 2): a record: found 5" in str(error)
    path.write_text("[ ]")
    assert list(read_records(path)) == []


BAD_ITEMS = [
    b'{"text": "b" nope}',
    b'{"text": "\xff"}',
    b'{"text": NaN}',
    b"[" * 100_000 + b"]" * 100_000,
    b"",
    b"9" * 5000,
]


@pytest.mark.parametrize("bad", BAD_ITEMS, ids=["syntax", "bytes", "NaN", "depth", "nothing", "digits"])
def test_a_bad_item_of_an_array_costs_no_other(tmp_path, bad):
    path = tmp_path / "in.json"
    path.write_bytes(b'[{"text": "a"}, ' + bad + b', {"text": "z"}]')
    first, (number, error), last = read_records(path)
    assert (first, last) == ((0, text_request("a")), (2, text_request("z")))
    assert number == 1 and isinstance(error, RecordError)


@pytest.mark.parametrize("end", ["", ",", ', {"te', ', {"text": "cut', "] and more"])
def test_an_array_that_is_cut_off_or_goes_on(tmp_path, end):
    path = tmp_path / "in.json"
    path.write_text('[{"text": "a"}' + end)
    first, *rest = read_records(path)
    assert first == (0, text_request("a")) and rest
    assert all(isinstance(error, RecordError) for _, error in rest)


def test_lines_that_begin_with_a_bracket_are_no_array(tmp_path):
    path = tmp_path / "in.json"
    path.write_text('[1]\n{"text": "a"}\n')
    (_, error), good = read_records(path)
    assert isinstance(error, RecordError) and good == (1, text_request("a"))


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
        reader.import_pyarrow(tmp_path / "in.parquet")


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a", "text": "b"}', '{"text": "a", "x": {"y": 1, "z": [{"k": 1, "k": 1}]}}',
        '{"id": 1, "id": 1, "text": "a"}', '{"text": "a", "t\\u0065xt": "b"}',
        '{"messages": [{"role": "user", "content": "a", "content": "b"}]}',
    ],
)  # fmt: skip
def test_json_keys_given_twice_are_an_error(tmp_path, line):
    path = tmp_path / "in.jsonl"
    path.write_text(f'{line}\n{{"text": "good"}}\n')
    (_, error), good = read_records(path)
    assert isinstance(error, RecordError) and "twice in one object" in str(error) and good[1] == text_request("good")


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "a", "id": "\\ud800"}', '{"text": "a\\udfff"}', '{"\\ud800": 1, "text": "a"}',
        '{"text": "a", "x": Infinity}', '{"text": "a", "id": 1e999}', '{"text": "a", "id": NaN}',
        '{"text": "a", "id": {}}', "null", '"x"', "-", "{" * 9999,
    ],
)  # fmt: skip
def test_what_json_lines_can_hold_is_the_records_error(tmp_path, line):
    path = tmp_path / "in.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n{{"text": "good"}}\n')
    first, (_, error), last = read_records(path)
    assert first[1] == last[1] == text_request("good")
    assert isinstance(error, RecordError) and error.record_id is None
    json.dumps(str(error), ensure_ascii=False).encode()


def no_utf8(pyarrow, texts):
    offsets = [0]
    for text in texts:
        offsets.append(offsets[-1] + len(text))
    buffers = [None, pyarrow.py_buffer(np.array(offsets, np.int32)), pyarrow.py_buffer(b"".join(texts))]
    return pyarrow.Array.from_buffers(pyarrow.string(), len(texts), buffers)


def test_parquet_values_without_a_python_object_are_the_rows_error(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    huge = {
        "duration": pyarrow.array([1, 2**62, 1], pyarrow.duration("s")),
        "time": pyarrow.array([1, 2**52, 1], pyarrow.timestamp("ms")),
        "text": no_utf8(pyarrow, [b"x", b"\xff\xfe", b"z"]),
        "decimal": pyarrow.array([None, 10**30, None], pyarrow.decimal128(38, 2)),
    }
    for name, ids in huge.items():
        parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "id": ids}), tmp_path / "in.parquet")
        found = [record for _, record in read_records(tmp_path / "in.parquet")]
        assert isinstance(found[1], RecordError) and "in.parquet, row 2 (record 1): id: found" in str(found[1]), name
        assert (name == "text") == (getattr(found[0], "id", None) == "x")
        ignored = pyarrow.table({"text": ["a", "b", "c"], "when": ids})
        parquet.write_table(ignored, tmp_path / "in.parquet")
        assert [r for _, r in read_records(tmp_path / "in.parquet")] == [text_request(text) for text in "abc"]
    parquet.write_table(pyarrow.table({"text": huge["text"], "id": [1, 2, 3]}), tmp_path / "in.parquet")
    first, (_, error), last = read_records(tmp_path / "in.parquet")
    assert (first[1], last[1]) == (text_request("x", 1), text_request("z", 3)) and error.record_id == 2


def test_parquet_columns_given_twice_are_an_error(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    arrays = [pyarrow.array(["a", "b"]), pyarrow.array(["c", "d"])]
    parquet.write_table(pyarrow.Table.from_arrays(arrays, ["text", "text"]), tmp_path / "in.parquet")
    found = list(read_records(tmp_path / "in.parquet"))
    assert [number for number, _ in found] == [0, 1]
    assert all("found the column 'text' twice" in str(error) for _, error in found)


def test_parquet_columns_that_are_nearly_known_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"text": ["a", "b"], "promt": [None, "x"], "other": [1, 2]}), tmp_path / "in.parquet"
    )
    good, (_, error) = read_records(tmp_path / "in.parquet")
    assert good[1] == text_request("a") and "did you mean prompt" in str(error)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_file_whose_name_is_no_utf8(tmp_path, suffix):
    path = tmp_path / os.fsdecode(b"in\xff" + suffix.encode())
    if suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        with path.open("wb") as file:
            parquet.write_table(pyarrow.table({"text": ["a", ""]}), file)
    else:
        path.write_text('{"text": "a"}\n{"text": ""}\n')
    good, (_, error) = read_records(str(path))
    assert good[1] == text_request("a") and f"in\\xff{suffix}, " in str(error)
    str(error).encode()
