"""Sharded safetensors: the index is believed only as far as it is true, and all its faults are told at once."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from checkpoint_files import bf16, write_sharded, write_single
from rmexport.checkpoint import open_checkpoint
from rmexport.errors import CheckpointError

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS = [{"a": bf16((2, 3)), "b": bf16((4,))}, {"c": bf16((3, 3))}]


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(folder))
    return str(caught.value)


def test_shards(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(write_sharded(tmp_path, SHARDS)))
    assert {name: info.file for name, info in checkpoint.tensors.items()} == {"a": ONE, "b": ONE, "c": TWO}
    np.testing.assert_array_equal(checkpoint.read("c"), SHARDS[1]["c"])


def test_shards_in_a_sub_folder(tmp_path: Path) -> None:
    write_single(tmp_path / "weights", {"a": bf16((2, 3))})
    index = {"weight_map": {"a": "weights/model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{}")
    assert open_checkpoint(str(tmp_path)).read("a").shape == (2, 3)


def test_one_file_wins_over_an_index(tmp_path: Path) -> None:
    write_sharded(tmp_path, SHARDS)
    write_single(tmp_path, {"only": bf16((2, 2))})
    assert set(open_checkpoint(str(tmp_path)).tensors) == {"only"}


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/../../b", "..", "", "a\\b", "a\0b"])
def test_shards_outside_the_folder(tmp_path: Path, shard: str) -> None:
    """Even when the file is there and whole."""
    folder = write_sharded(tmp_path / "checkpoint", SHARDS, {"a": ONE, "b": ONE, "c": shard})
    write_single(tmp_path, {"c": bf16((3, 3))})
    assert "outside its folder" in refused(folder)


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path, SHARDS, {"a": ONE, "c": "lost-1.safetensors", "d": "lost-2.safetensors"})
    message = refused(folder)
    assert "lost-1.safetensors, lost-2.safetensors" in message
    assert "download" in message


def test_disagreements_are_all_named(tmp_path: Path) -> None:
    message = refused(write_sharded(tmp_path, SHARDS, {"a": ONE, "c": ONE, "gone": TWO}))
    assert f"do not hold: c (in {ONE}), gone (in {TWO})" in message
    assert f"does not name there: b (in {ONE}), c (in {TWO})" in message


def test_damaged_shards_are_all_named(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path, SHARDS)
    for name in (ONE, TWO):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    message = refused(folder)
    assert ONE in message
    assert TWO in message
    assert "Download" in message


@pytest.mark.parametrize(
    "raw", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
)
def test_broken_indexes(tmp_path: Path, raw: str) -> None:
    write_sharded(tmp_path, SHARDS)
    (tmp_path / "model.safetensors.index.json").write_text(raw)
    assert "index.json" in refused(tmp_path)


def test_threads_read_at_once(tmp_path: Path) -> None:
    tensor = np.arange(1 << 18, dtype=np.int64)
    checkpoint = open_checkpoint(str(write_single(tmp_path, {"t": tensor})))
    wrong: list[int] = []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, tensor.size - 1000, 200):
            out = np.empty(1000, np.int64)
            checkpoint.read_into("t", int(start), out)
            if not np.array_equal(out, tensor[start : start + 1000]):
                wrong.append(int(start))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
