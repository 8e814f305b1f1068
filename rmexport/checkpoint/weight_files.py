"""Which files of a folder hold its weights, and what they hold."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexport.checkpoint import safetensors_source
from rmexport.checkpoint.shard_index import listing, sharded_inventory
from rmexport.checkpoint.tensors import TensorInfo, TensorReader
from rmexport.errors import CheckpointError

# In transformers' order of preference.
SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a checkpoint. `index` is the index file of a sharded one."""

    tensors: Mapping[str, TensorInfo]
    reader: TensorReader
    index: str | None


def find_weights(folder: Path) -> WeightFiles:
    """The inventory of the folder's weights.

    Raises CheckpointError when there are none or they are damaged, and when torch is needed and not installed.
    """
    if (folder / SAFETENSORS).is_file():
        tensors = safetensors_source.file_inventory(folder, [SAFETENSORS])
        return WeightFiles(_by_name(tensors), safetensors_source.SafetensorsReader(folder), None)
    if (folder / SAFETENSORS_INDEX).is_file():
        by_name = sharded_inventory(folder / SAFETENSORS_INDEX, safetensors_source.file_inventory)
        return WeightFiles(by_name, safetensors_source.SafetensorsReader(folder), SAFETENSORS_INDEX)
    if (folder / TORCH).is_file():
        torch_shards = _torch_shards(folder / TORCH)
        return WeightFiles(
            _by_name(torch_shards.file_inventory(folder, [TORCH])), torch_shards.TorchReader(folder), None
        )
    if (folder / TORCH_INDEX).is_file():
        torch_shards = _torch_shards(folder / TORCH_INDEX)
        by_name = sharded_inventory(folder / TORCH_INDEX, torch_shards.file_inventory)
        return WeightFiles(by_name, torch_shards.TorchReader(folder), TORCH_INDEX)
    raise CheckpointError(_no_weights(folder))


def _by_name(tensors: list[TensorInfo]) -> dict[str, TensorInfo]:
    return {info.name: info for info in tensors}


def _torch_shards(file: Path) -> Any:
    try:
        return importlib.import_module("rmexport.checkpoint.torch_shards")
    except ImportError as error:
        raise CheckpointError(
            f"{file} is a pickle, which only torch reads ({error}): pip install 'rmexport[torch]', "
            "or use a checkpoint with safetensors"
        ) from error


def _no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return f"{folder} is a LoRA adapter; merge it into its base model (peft's merge_and_unload) and export that"
    found = sorted(path.name for kind in ("*.safetensors", "*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    expected = ", ".join((SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX))
    there = f"; it has {listing(found)}, which none of them names" if found else ""
    return f"{folder} has none of {expected}{there}. Give the folder of a complete checkpoint"
