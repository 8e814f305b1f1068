"""Which files of a folder hold its weights, and what they hold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexport.checkpoint import bin_files, safetensors_source
from rmexport.checkpoint.shard_index import listing, sharded_inventory
from rmexport.checkpoint.tensors import TensorInfo, TensorReader
from rmexport.errors import CheckpointError

# In transformers' order of preference.
SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_EXPECTED = (SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX)


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a checkpoint.

    `files` of its folder hold them, `index` is the index file of a sharded one. `notes` say what was decided about
    files that contradict each other.
    """

    tensors: Mapping[str, TensorInfo]
    reader: TensorReader
    files: tuple[str, ...]
    index: str | None = None
    notes: tuple[str, ...] = ()


def has_weights(folder: Path) -> bool:
    """Whether `find_weights` has anything to read in `folder`."""
    return any((folder / name).is_file() for name in _EXPECTED)


def find_weights(folder: Path) -> WeightFiles:
    """The inventory of the folder's weights.

    Raises CheckpointError when there are none or they are damaged, and when torch is needed and not installed.
    """
    for name in _EXPECTED:
        if (folder / name).is_file():
            return _sharded(folder / name) if name in (SAFETENSORS_INDEX, TORCH_INDEX) else read_weights(folder, name)
    raise CheckpointError(_no_weights(folder))


def read_weights(folder: Path, file: str) -> WeightFiles:
    """The inventory of one file of weights, .safetensors or a pickle of tensors by name.

    Raises CheckpointError when it is damaged, and when torch is needed and not installed.
    """
    source = _source(folder / file)
    tensors = {info.name: info for info in source.file_inventory(folder, [file])}
    return WeightFiles(tensors, _reader(source, folder), (file,))


def _sharded(index: Path) -> WeightFiles:
    source = _source(index)
    tensors = sharded_inventory(index, source.file_inventory)
    return WeightFiles(tensors, _reader(source, index.parent), _files(tensors.values()), index.name)


def _files(tensors: Iterable[TensorInfo]) -> tuple[str, ...]:
    return tuple(sorted({info.file for info in tensors}))


def _source(file: Path) -> Any:
    """The module that reads the format of `file`: a .safetensors file, a pickle, or the index of either."""
    return safetensors_source if ".safetensors" in file.suffixes else bin_files


def _reader(source: Any, folder: Path) -> TensorReader:
    if source is safetensors_source:
        return safetensors_source.SafetensorsReader(folder)
    return bin_files.BinReader(folder)


def _no_weights(folder: Path) -> str:
    found = sorted(path.name for kind in ("*.safetensors", "*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    there = f"; it has {listing(found)}, which none of them names" if found else ""
    return f"{folder} has none of {', '.join(_EXPECTED)}{there}. Give the folder of a complete checkpoint"
