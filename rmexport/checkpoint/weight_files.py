"""Finds the weight files of a folder, and lists their tensors."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rmexport.checkpoint import bin_files, safetensors_source
from rmexport.checkpoint.shard_index import sharded_inventory, stated_shards
from rmexport.checkpoint.tensors import Route, RoutedReader, TensorInfo, TensorReader
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

# In transformers' order of preference.
SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_EXPECTED = (SAFETENSORS, SAFETENSORS_INDEX, TORCH, TORCH_INDEX)
_WHOLE = ("*.safetensors", "pytorch_model*.bin", "consolidated*.p*t*", "*.gguf", SAFETENSORS_INDEX, TORCH_INDEX)
_PARTS = ("adapter_model.", "value_head.")  # which are read beside these


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a checkpoint.

    They are in `files` of its folder; `index` is the index file of a sharded checkpoint. `notes` tell how files that
    contradict each other were used. `settings` are other files that decided how they were read.
    """

    tensors: Mapping[str, TensorInfo]
    reader: TensorReader
    files: tuple[str, ...]
    index: str | None = None
    notes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


def renamed_weights(weights: WeightFiles, names: Mapping[str, str], notes: tuple[str, ...] = ()) -> WeightFiles:
    """Some of the weights under other names; `names` maps a new name to the one in `weights`."""
    held = set(names.values())
    gaps = {info.file for name, info in weights.tensors.items() if name not in held}  # such a file cannot be kept
    infos = {new: weights.tensors[old] for new, old in names.items()}
    tensors = {
        new: replace(info, name=new, offset=None if info.file in gaps else info.offset) for new, info in infos.items()
    }
    routes = {new: Route(weights.reader, info) for new, info in infos.items()}
    return replace(weights, tensors=tensors, reader=RoutedReader(routes), notes=(*weights.notes, *notes))


def has_weights(folder: Path) -> bool:
    """Whether `find_weights` has anything to read in `folder`.

    >>> has_weights(Path())
    False
    """
    return any((folder / name).is_file() for name in _EXPECTED)


def find_weights(folder: Path) -> WeightFiles:
    """The weights in `folder`, in the file that transformers would choose.

    Raises CheckpointError when there are none or they are damaged, and when torch is needed and not installed.

    >>> find_weights(Path("empty"))
    Traceback (most recent call last):
    rmexport.errors.CheckpointError: empty has none of model.safetensors, model.safetensors.index.json, ...
    """
    there = [name for name in _EXPECTED if (folder / name).is_file()]
    if not there:
        raise CheckpointError(_no_weights(folder))
    chosen = there[0]
    for file, index in ((SAFETENSORS, SAFETENSORS_INDEX), (TORCH, TORCH_INDEX)):
        if chosen == file and index in there and stated_shards(folder / index) == {file}:
            chosen = index  # of one shard
    found = _sharded(folder / chosen) if chosen.endswith(".json") else read_weights(folder, chosen)
    return replace(found, notes=_left_notes(folder, chosen, found))


def _left_notes(folder: Path, chosen: str, found: WeightFiles) -> tuple[str, ...]:
    """A note on other weights of the whole model in the folder, which are not read."""
    there = {path.name for pattern in _WHOLE for path in folder.glob(pattern) if path.is_file()}
    left = sorted(name for name in there - {chosen, *found.files} if not name.startswith(_PARTS))
    if not left:
        return ()
    return (f"the weights are those of {chosen}, as transformers chooses; not read: {listing(left)}",)


def read_weights(folder: Path, file: str) -> WeightFiles:
    """The weights in one file, .safetensors or a pickle of tensors by name.

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
