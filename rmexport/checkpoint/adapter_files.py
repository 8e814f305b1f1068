"""Reads an adapter's folder: its own tensors, value heads in other files, and the place of its base."""

from pathlib import Path

from rmexport.checkpoint.adapter_config import ADAPTER_CONFIG, LoraConfig
from rmexport.checkpoint.origin import Origin, locate
from rmexport.checkpoint.sidecar_heads import read_side_files
from rmexport.checkpoint.tensors import Route, RoutedReader
from rmexport.checkpoint.weight_files import WeightFiles, find_weights, has_weights, read_weights
from rmexport.checkpoint.wrapped_names import PEFT, unwrapped
from rmexport.errors import CheckpointError

ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


def is_adapter(folder: Path) -> bool:
    """Whether `folder` has an adapter, not merely the adapter_config.json of one that was merged into its model.

    >>> is_adapter(Path())
    False
    """
    has_adapter = any((folder / name).is_file() for name in ADAPTERS)
    return (folder / ADAPTER_CONFIG).is_file() and (has_adapter or not has_weights(folder))


def read_adapter(folder: Path) -> WeightFiles:
    """The adapter's own tensors, including those of value heads in other files.

    Raises CheckpointError when there are none, when they are damaged, and when the folder has a whole model too.
    """
    file = next((name for name in ADAPTERS if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(
            f"{folder} has {ADAPTER_CONFIG} and none of {', '.join(ADAPTERS)}; give the folder of a complete adapter"
        )
    parts = [unwrapped(read_weights(folder, file), expected=(PEFT,)), read_side_files(folder)]
    if has_weights(folder):
        parts.append(_value_head(folder))
    tensors = {name: info for part in parts for name, info in part.tensors.items()}
    routes = {name: Route(part.reader, info) for part in parts for name, info in part.tensors.items()}
    files = tuple(file for part in parts for file in part.files)
    return WeightFiles(tensors, RoutedReader(routes), files, notes=tuple(note for part in parts for note in part.notes))


def _value_head(folder: Path) -> WeightFiles:
    """The value head that TRL's AutoModelForCausalLMWithValueHead saves as model.safetensors beside an adapter."""
    found = unwrapped(find_weights(folder))
    if not all(name.startswith("v_head.") for name in found.tensors):
        raise CheckpointError(
            f"{folder} has an adapter and a whole model ({', '.join(found.files[:3])}), expected one of them: move the "
            f"other away ({ADAPTER_CONFIG} and {' or '.join(ADAPTERS)} are the adapter)"
        )
    return found


def locate_base(config: LoraConfig, folder: Path) -> Origin:
    """The base of the adapter in `folder`: a folder, as it is or relative to the adapter's, or a Hub repository.

    Raises CheckpointError when it is neither, naming the file to change.
    """
    stated = config.base_model_name_or_path
    for base in (Path(stated).expanduser(), folder / stated):
        if base.is_dir():
            return locate(str(base), None)
    try:
        return locate(stated, config.revision)
    except CheckpointError as error:
        raise CheckpointError(
            f"the base of the adapter {folder} is missing: {error}. Its {ADAPTER_CONFIG} names {stated!r} as "
            "base_model_name_or_path: put the folder or Hub id of the base there"
        ) from error
