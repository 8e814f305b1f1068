"""The header reader accepts what the safetensors library writes and refuses everything that is not a whole file."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from checkpoint_files import bf16, file_of, header_of, write_safetensors
from rmruntime.bundle.safetensors_header import HEADER_LIMIT, HeaderError, TensorEntry, read_header

TENSORS = {"a": bf16((3, 4)), "empty": np.zeros((0, 4), np.float32), "b": np.arange(5, dtype=np.int64)}
DATA = b"".join(array.tobytes() for array in TENSORS.values())


def refused(tmp_path: Path, raw: bytes) -> str:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    with pytest.raises(HeaderError) as caught:
        read_header(path)
    assert "x.safetensors" in str(caught.value)
    return str(caught.value)


def test_entries_are_absolute_and_in_file_order(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", TENSORS)
    start = path.stat().st_size - len(DATA)
    assert read_header(path) == {
        "a": TensorEntry("bf16", (3, 4), start, start + 24),
        "empty": TensorEntry("fp32", (0, 4), start + 24, start + 24),
        "b": TensorEntry("int64", (5,), start + 24, start + 64),
    }


def test_what_the_library_writes_is_accepted(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {f"t{i}": np.full((i, 2), i, np.float16) for i in range(7)} | {"scalar": np.array(3, np.float32)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "np"})
    raw = (tmp_path / "x.safetensors").read_bytes()
    for name, entry in read_header(tmp_path / "x.safetensors").items():
        assert raw[entry.begin : entry.end] == tensors[name].tobytes()
        assert entry.shape == tensors[name].shape


@pytest.mark.parametrize("size", [0, 7, 8, 20, 200, 60 + len(DATA)])
def test_truncated_anywhere(tmp_path: Path, size: int) -> None:
    raw = file_of(header_of(TENSORS), DATA)
    refused(tmp_path, raw[:size])
    refused(tmp_path, raw[:-1])


def test_header_bombs(tmp_path: Path) -> None:
    assert "allowed" in refused(tmp_path, struct.pack("<Q", HEADER_LIMIT + 1) + b"{}")
    assert "allowed" in refused(tmp_path, struct.pack("<Q", 2**64 - 1) + b"{}")
    assert "truncated" in refused(tmp_path, struct.pack("<Q", 1000) + b"{}")
    refused(tmp_path, file_of(b"[" * 200_000))
    refused(tmp_path, file_of(b'{"a":' * 200_000))
    huge = b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'
    refused(tmp_path, file_of(huge, b"1234"))
    many = json.dumps({"a": {"dtype": "F32", "shape": [2**62] * 100_000, "data_offsets": [0, 4]}}).encode()
    refused(tmp_path, file_of(many, b"1234"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F33"}, "known are"),
        ({"dtype": ["F32"]}, "known are"),
        ({"shape": [2, -1]}, "whole numbers"),
        ({"shape": [2.0]}, "whole numbers"),
        ({"shape": [True]}, "whole numbers"),
        ({"shape": "2"}, "whole numbers"),
        ({"shape": [3]}, "takes 12 bytes"),
        ({"data_offsets": [0, 4]}, "takes 8 bytes"),
        ({"data_offsets": [8, 0]}, "begin <= end"),
        ({"data_offsets": [-8, 0]}, "begin <= end"),
        ({"data_offsets": [0]}, "begin <= end"),
        ({"data_offsets": [0, 2**63]}, "begin <= end"),
        ({"extra": 1}, "exactly"),
    ],
)
def test_faulty_entries(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    assert message in refused(tmp_path, file_of({"a": entry | change}, bytes(8)))


def test_every_faulty_entry_is_named(tmp_path: Path) -> None:
    bad = {"dtype": "??", "shape": [2], "data_offsets": [0, 8]}
    message = refused(tmp_path, file_of({"first": bad, "second": bad}, bytes(8)))
    assert "first" in message
    assert "second" in message


@pytest.mark.parametrize(
    ("ranges", "size", "message"),
    [
        ([(0, 8), (4, 12)], 12, "overlaps"),
        ([(0, 8), (0, 8)], 8, "overlaps"),
        ([(0, 8), (12, 20)], 20, "4 bytes after"),
        ([(4, 12)], 12, "4 bytes after"),
        ([(0, 8), (8, 16)], 12, "truncated"),
        ([(0, 8)], 12, "4 bytes follow"),
        ([], 4, "4 bytes follow"),
    ],
)
def test_layout(tmp_path: Path, ranges: list[tuple[int, int]], size: int, message: str) -> None:
    header = {
        f"t{i}": {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end]}
        for i, (begin, end) in enumerate(ranges)
    }
    assert message in refused(tmp_path, file_of(header, bytes(size)))


@pytest.mark.parametrize("raw", [b"", b"[]", b'"a"', b"{", b"\xff{}", b" {}", b'{"a":NaN}', b'{"a":1}', b"nonsense"])
def test_not_a_header(tmp_path: Path, raw: bytes) -> None:
    refused(tmp_path, file_of(raw))


def test_duplicate_names(tmp_path: Path) -> None:
    entry = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    raw = b'{"twice":' + entry + b',"twice":' + entry + b"}"
    assert "duplicate name(s) 'twice'" in refused(tmp_path, file_of(raw, bytes(8)))


@pytest.mark.parametrize("metadata", [[], {"a": 1}, "text"])
def test_metadata_holds_strings(tmp_path: Path, metadata: Any) -> None:
    refused(tmp_path, file_of({"__metadata__": metadata}))


@settings(max_examples=300)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_it_accepts_only_what_the_library_accepts(tmp_path: Path, position: int, value: int) -> None:
    """After any change of one byte of the header: whatever we take, the library takes too, with the same layout."""
    raw = bytearray(file_of(header_of(TENSORS), DATA))
    raw[position % (len(raw) - len(DATA))] = value
    path = tmp_path / "x.safetensors"
    path.write_bytes(bytes(raw))
    try:
        entries = read_header(path)
    except HeaderError:
        return
    try:
        with safe_open(path, "numpy") as file:
            assert set(file.keys()) == set(entries)
            assert all(tuple(file.get_slice(name).get_shape()) == entries[name].shape for name in entries)
    except SafetensorError as error:
        pytest.fail(f"the library refuses it: {error}")
