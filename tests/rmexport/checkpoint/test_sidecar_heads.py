"""Heads in files of their own, beside shards and beside adapters: what they are called, and which of two counts."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from checkpoint_files import bf16, with_config, write_sharded, write_single
from rmexport import ExportOptions
from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.checkpoint.derived_tensors import TensorAlias
from rmexport.errors import CheckpointError
from rmexport.weights import WeightSpec, store_weights

WEIGHT, BIAS = "v_head.summary.weight", "v_head.summary.bias"
SHARDS = ({"a": bf16((4, 3)), "b": bf16((2, 3), 1)}, {"c": bf16((5,), 2)})


def value_head(rows: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {WEIGHT: torch.randn(rows, 3, generator=generator), BIAS: torch.randn(rows, generator=generator)}


def assert_holds(checkpoint: Checkpoint, expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        assert checkpoint.tensors[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(checkpoint.read(name), tensor.numpy())


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)


@pytest.mark.parametrize("file", ["value_head.safetensors", "value_head.bin"])
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_a_value_head_beside_the_weights(tmp_path: Path, file: str, sharded: bool) -> None:
    """As LLaMA-Factory saves reward models."""
    folder = write_sharded(tmp_path, SHARDS) if sharded else write_single(tmp_path, SHARDS[0])
    save(folder / file, value_head())
    checkpoint = open_checkpoint(str(folder))
    assert_holds(checkpoint, value_head())
    np.testing.assert_array_equal(checkpoint.read("b"), SHARDS[0]["b"])
    assert set(checkpoint.tensors) == {"a", "b", WEIGHT, BIAS} | ({"c"} if sharded else set())
    assert file in {record.name for record in checkpoint.source_files if record.role == "weights"}
    assert checkpoint.notes == ()


def test_safetensors_go_before_bin(tmp_path: Path) -> None:
    write_single(tmp_path, SHARDS[0])
    save(tmp_path / "value_head.safetensors", value_head())
    save(tmp_path / "value_head.bin", value_head(seed=1))
    checkpoint = open_checkpoint(str(tmp_path))
    assert_holds(checkpoint, value_head())
    assert "value_head.bin" not in {record.name for record in checkpoint.source_files}


def test_the_first_spelling_of_value_heads(tmp_path: Path) -> None:
    write_single(tmp_path, SHARDS[0])
    save(tmp_path / "value_head.bin", {"summary.weight": value_head()[WEIGHT], "summary.bias": value_head()[BIAS]})
    assert_holds(open_checkpoint(str(tmp_path)), value_head())


def test_a_side_file_replaces_the_head_in_the_shards(tmp_path: Path) -> None:
    """The shard with the other head cannot be kept as it is; the rest of it is copied out unharmed."""
    old = {name: tensor.numpy() for name, tensor in value_head(seed=1).items()}
    folder = write_sharded(tmp_path / "c", [{"a": SHARDS[0]["a"], **old, "b": SHARDS[0]["b"]}, SHARDS[1]])
    save(folder / "value_head.safetensors", value_head())
    checkpoint = open_checkpoint(str(folder))
    assert_holds(checkpoint, value_head())
    expected = {f"value_head.safetensors replaces the {name} of model-00001-of-00002.safetensors" for name in old}
    assert set(checkpoint.notes) == expected
    wanted = [WeightSpec(i.name, i.dtype, i.shape, TensorAlias(source=i.name)) for i in checkpoint.tensors.values()]
    (tmp_path / "bundle").mkdir()
    stored = store_weights(checkpoint, wanted, tmp_path / "bundle", ExportOptions())
    for name, at in stored.locations.items():
        held = (tmp_path / "bundle" / at.file).read_bytes()[at.offset : at.offset + at.nbytes]
        assert held == checkpoint.read(name).tobytes(), name
    assert {file.name for file in stored.files} >= {"model-00002-of-00002.safetensors", "value_head.safetensors"}


def test_heads_of_different_shapes(tmp_path: Path) -> None:
    write_single(tmp_path, {**SHARDS[0], WEIGHT: np.ones((2, 3), np.float32)})
    save(tmp_path / "value_head.safetensors", value_head())
    with pytest.raises(CheckpointError, match=r"two heads: v_head\.summary\.weight is \[1, 3\] in value_head"):
        open_checkpoint(str(tmp_path))


def test_networks_of_their_own(tmp_path: Path) -> None:
    """LDL-Reward's two networks, as its save_pretrained writes them (reward-bench, models/ldlreward.py)."""
    torch.manual_seed(0)
    networks = {name: torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 20)) for name in ("x", "y")}
    write_single(tmp_path, SHARDS[0])
    torch.save(networks["x"].state_dict(prefix="network."), tmp_path / "regression_layer.pt")
    torch.save(networks["y"].state_dict(prefix="network."), tmp_path / "gating_layer.pt")
    checkpoint = open_checkpoint(str(tmp_path))
    expected = {f"regression_layer.network.{name}": t for name, t in networks["x"].state_dict().items()}
    expected |= {f"gating_layer.network.{name}": t for name, t in networks["y"].state_dict().items()}
    assert set(checkpoint.tensors) == {"a", "b", *expected}
    assert_holds(checkpoint, expected)
    assert b"".join(c.tobytes() for c in checkpoint.chunks("gating_layer.network.0.weight", 8)) == (
        expected["gating_layer.network.0.weight"].numpy().tobytes()
    )


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    write_single(tmp_path, SHARDS[0])
    torch.save(torch.nn.Linear(2, 2), tmp_path / "regression_layer.pt")
    with pytest.raises(CheckpointError, match=r"regression_layer\.pt has more than tensors"):
        open_checkpoint(str(tmp_path))


def adapter(folder: Path, base: Path, **config: Any) -> Path:
    folder.mkdir()
    stated = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "lora_alpha": 2} | config
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    tensors = {
        "base_model.model.a.lora_A.weight": torch.ones(2, 3),
        "base_model.model.a.lora_B.weight": torch.ones(4, 2),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("file", ["value_head.safetensors", "value_head.bin", "pytorch_model.bin"])
def test_a_value_head_beside_an_adapter(tmp_path: Path, file: str) -> None:
    """LLaMA-Factory's files, and what TRL's AutoModelForCausalLMWithValueHead saves for itself."""
    base = write_single(tmp_path / "base", {"a.weight": np.zeros((4, 3), np.float32)})
    folder = adapter(tmp_path / "adapter", base)
    save(folder / file, value_head())
    checkpoint = open_checkpoint(str(folder))
    assert_holds(checkpoint, value_head() | {"a.weight": torch.full((4, 3), 2.0)})
    names = {record.name for record in checkpoint.source_files}
    expected = {"adapter_config.json", "adapter_model.safetensors", file, "base/config.json", "base/model.safetensors"}
    assert names == expected


def test_a_value_head_of_the_base_and_one_of_the_adapter(tmp_path: Path) -> None:
    base = write_single(tmp_path / "base", {"a.weight": np.zeros((4, 3), np.float32)})
    save(base / "value_head.safetensors", value_head())
    folder = adapter(tmp_path / "adapter", base)
    assert_holds(open_checkpoint(str(folder)), value_head())
    save(folder / "value_head.safetensors", value_head(seed=1))
    assert_holds(open_checkpoint(str(folder)), value_head(seed=1))


def test_safetensors_alone_need_no_torch(tmp_path: Path) -> None:
    """An adapter, its base and a value head, in a process where torch cannot be imported."""
    base = write_single(tmp_path / "base", {"a.weight": np.zeros((4, 3), np.float32)})
    folder = adapter(tmp_path / "adapter", base)
    save(folder / "value_head.safetensors", value_head())
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from rmexport.checkpoint import open_checkpoint\n"
        f"print(open_checkpoint({str(folder)!r}).read('a.weight').sum())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "24.0\n"
    torch.save(value_head(), with_config(base) / "value_head.bin", _use_new_zipfile_serialization=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "only torch reads" in done.stderr
