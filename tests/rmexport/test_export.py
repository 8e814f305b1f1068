"""A bundle as a whole: self-describing, reproducible, complete or absent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
import torch

from conversations import ragged_records
from rmexport import ExportOptions, OptionError, TargetExists, export
from rmruntime import BundleError, RewardModel
from rmruntime.bundle import Bundle
from tiny_checkpoints import causal_lm, gated, sequence_classifier


def test_graphs_are_small_valid_and_point_into_safetensors(tmp_path: Path) -> None:
    export(str(sequence_classifier(tmp_path / "c").folder), tmp_path / "b")
    for path in (tmp_path / "b").glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        assert path.stat().st_size < 100_000
        assert model.ir_version == 11 and model.opset_import[0].version == 23
        external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        assert len(external) == 3 * 9 + 3
        assert {e.value for t in external for e in t.external_data if e.key == "location"} == {"model.safetensors"}


def test_manifest_tells_where_everything_came_from(tmp_path: Path) -> None:
    folder = gated(tmp_path / "c").folder
    manifest = export(str(folder), tmp_path / "b", ExportOptions(dtype="bf16"))
    assert Bundle.open(tmp_path / "b", check="full").manifest == manifest
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {f.name for f in manifest.source.files}
    assert manifest.options["dtype"] == "bf16"
    assert all(f.sha256 for f in manifest.files)


def test_exports_are_reproducible(tmp_path: Path) -> None:
    folder = gated(tmp_path / "c").folder
    options = ExportOptions(dtype="fp16")
    for name in ("one", "two"):
        export(str(folder), tmp_path / name, options)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_an_existing_target_is_kept_unless_overwritten(tmp_path: Path) -> None:
    folder = str(sequence_classifier(tmp_path / "c").folder)
    export(folder, tmp_path / "b")
    before = (tmp_path / "b" / "manifest.json").read_bytes()
    with pytest.raises(TargetExists, match="--overwrite"):
        export(folder, tmp_path / "b", ExportOptions(dtype="bf16"))
    assert (tmp_path / "b" / "manifest.json").read_bytes() == before
    export(folder, tmp_path / "b", ExportOptions(dtype="bf16", overwrite=True))
    assert Bundle.open(tmp_path / "b").manifest.dtype == "bf16"


def test_linked_weights_score_alike_and_notice_a_rewritten_source(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    export(str(folder), tmp_path / "copied")
    export(str(folder), tmp_path / "linked", ExportOptions(weights="link"))
    assert os.path.samefile(folder / "model.safetensors", tmp_path / "linked" / "model.safetensors")
    records = ragged_records(3)
    with RewardModel.load(tmp_path / "copied") as a, RewardModel.load(tmp_path / "linked") as b:
        assert a.score(records) == b.score(records)
    with pytest.raises(BundleError):  # an open hash cannot be checked
        Bundle.open(tmp_path / "linked", check="full")
    (folder / "model.safetensors").touch()
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        Bundle.open(tmp_path / "linked")


def test_linking_cannot_convert(tmp_path: Path) -> None:
    folder = sequence_classifier(tmp_path / "c").folder
    with pytest.raises(OptionError, match="copy"):
        export(str(folder), tmp_path / "b", ExportOptions(weights="link", dtype="bf16"))
    assert not (tmp_path / "b").exists()


def test_the_lm_head_shrinks_to_two_rows(tmp_path: Path) -> None:
    folder = causal_lm(tmp_path / "c").folder
    manifest = export(str(folder), tmp_path / "b", ExportOptions(recipe="rlhflow-orm"))
    from rmruntime.bundle.safetensors_header import read_header

    stored = {
        name: entry
        for f in manifest.files
        if f.role == "weights"
        for name, entry in read_header(tmp_path / "b" / f.name).items()
    }
    assert "lm_head.weight" not in stored
    assert stored["token_logits.weight"].shape == (2, 64)


def test_torch_shards_give_the_same_bundle_as_safetensors(tmp_path: Path) -> None:
    """Seed 4 comes as pytorch_model-*.bin."""
    checkpoint = sequence_classifier(tmp_path / "c", dtype=torch.bfloat16)
    export(str(checkpoint.folder), tmp_path / "safetensors")
    state = checkpoint.model.state_dict()
    names = list(state)
    shards = {"pytorch_model-00001-of-00002.bin": names[:9], "pytorch_model-00002-of-00002.bin": names[9:]}
    for file, part in shards.items():
        torch.save({name: state[name] for name in part}, checkpoint.folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (checkpoint.folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (checkpoint.folder / "model.safetensors").unlink()
    export(str(checkpoint.folder), tmp_path / "bin")
    records = ragged_records(4)
    with RewardModel.load(tmp_path / "safetensors") as a, RewardModel.load(tmp_path / "bin") as b:
        assert a.score(records) == b.score(records)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
def test_a_killed_export_leaves_nothing_that_loads(tmp_path: Path, delay: float) -> None:
    """kill -9 once the temporary folder is there; the next export cleans up and succeeds."""
    folder = gated(tmp_path / "c").folder
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen([sys.executable, "-m", "rmexport", "export", str(folder), str(out / "b")])
    while process.poll() is None and not any(out.iterdir()):
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if (out / "b").exists():  # it was quicker than the signal
        Bundle.open(out / "b", check="full")
    export(str(folder), out / "b", ExportOptions(overwrite=True))
    assert [p.name for p in out.iterdir()] == ["b"]
    Bundle.open(out / "b", check="full")


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    export(str(gated(tmp_path / "c").folder), tmp_path / "b")
    for path in sorted((tmp_path / "b").iterdir()):
        original = path.read_bytes()
        for place in (0, len(original) // 3, len(original) // 2, len(original) - 1):
            spoiled = bytearray(original)
            spoiled[place] ^= 0x10
            path.write_bytes(bytes(spoiled))
            with pytest.raises(BundleError):
                Bundle.open(tmp_path / "b", check="full")
        path.write_bytes(original)
    Bundle.open(tmp_path / "b", check="full")
