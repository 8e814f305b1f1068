"""The one writer of safetensors headers agrees with the one reader, and with the safetensors library."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from rmexport.weights.safetensors_layout import lay_out
from rmruntime.bundle.safetensors_header import DTYPES, ITEM_BYTES, LENGTH_BYTES, read_header

TENSORS = {
    "odd": ("bf16", (33,)),
    "matrix": ("fp32", (4, 16)),
    "scale": ("fp32", ()),
    "empty": ("fp16", (0, 3)),
    "codes": ("int8", (5, 7)),
    "größe 层": ("fp8_e4m3", (64,)),
    "ids": ("int64", (2, 8)),
}


def write(path: Path) -> None:
    layout = lay_out(TENSORS)
    path.write_bytes(layout.header + bytes(sum(entry.nbytes for entry in layout.entries.values())))


def test_the_reader_finds_what_was_laid_out(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors")
    found = read_header(tmp_path / "x.safetensors")
    assert found == lay_out(TENSORS).entries
    assert {name: (entry.dtype, entry.shape) for name, entry in found.items()} == TENSORS


def test_the_library_finds_it_too(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert set(file.keys()) == set(TENSORS) and file.metadata() == {"format": "pt"}
        assert {name: tuple(file.get_slice(name).get_shape()) for name in TENSORS} == {
            name: shape for name, (_, shape) in TENSORS.items()
        }


def test_only_tensors_that_would_misalign_others_are_misaligned_themselves() -> None:
    layout = lay_out(TENSORS)
    assert len(layout.header) % 64 == 0
    sizes = {name: entry.nbytes for name, entry in layout.entries.items()}
    assert all(layout.entries[name].begin % 64 == 0 for name, size in sizes.items() if size % 64 == 0)
    for name, entry in layout.entries.items():
        assert entry.begin % ITEM_BYTES[entry.dtype] == 0, name


@pytest.mark.parametrize("name", [name for name, _ in DTYPES.values()])
def test_every_dtype_that_is_read_can_be_written(tmp_path: Path, name: str) -> None:
    layout = lay_out({"x": (name, (3, 2))})
    (tmp_path / "x.safetensors").write_bytes(layout.header + bytes(layout.entries["x"].nbytes))
    assert read_header(tmp_path / "x.safetensors") == layout.entries


def test_equal_tensors_keep_their_order() -> None:
    names = [f"t{i}" for i in range(20)]
    header = lay_out(dict.fromkeys(names, ("bf16", (32,)))).header
    assert list(json.loads(header[LENGTH_BYTES:]))[1:] == names
