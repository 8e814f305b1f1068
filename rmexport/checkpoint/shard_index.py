"""Reads the index of a sharded checkpoint, which maps tensors to files, and checks it against the files."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

from rmexport.checkpoint.config_fields import read_json_object
from rmexport.checkpoint.tensors import TensorInfo
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

Inventory = Callable[[Path, Iterable[str]], list[TensorInfo]]  # of one file format: (folder, files) -> tensors


def sharded_inventory(index: Path, inventory: Inventory) -> dict[str, TensorInfo]:
    """All tensors of a sharded checkpoint by name. Raises CheckpointError, which lists every damaged or wrong part."""
    weight_map = _read_index(index)
    tensors = inventory(index.parent, sorted(set(weight_map.values())))
    held: dict[str, list[str]] = {}
    for info in tensors:
        held.setdefault(info.file, []).append(info.name)
    _check_index(index, weight_map, held)
    return {info.name: info for info in tensors}


def stated_shards(index: Path) -> set[str]:
    """The files that an index names; none where it is damaged. They may be missing, where the index is left over.

    >>> _ = Path("index.json").write_text('{"weight_map": {"score.weight": "model-1.safetensors"}}')
    >>> stated_shards(Path("index.json"))
    {'model-1.safetensors'}
    """
    try:
        weight_map = read_json_object(index).get("weight_map")
    except CheckpointError:
        return set()
    return {shard for shard in weight_map.values() if isinstance(shard, str)} if isinstance(weight_map, dict) else set()


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> shard. A shard may be a symbolic link to anywhere: the Hub's own cache is made of them."""
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{path} has no weight_map of tensor names to file names; restore the original index")
    if not weight_map:
        raise CheckpointError(f"{path} names no tensors; restore the original index")
    shards = sorted(set(weight_map.values()))
    if outside := [shard for shard in shards if not _is_inside(shard)]:
        raise CheckpointError(
            f"{path} names shards outside its folder: {listing(outside)}, expected file names; restore "
            "the original index"
        )
    if missing := [shard for shard in shards if not (path.parent / shard).is_file()]:
        raise CheckpointError(f"{path} names shards that are not there: {listing(missing)}; download them again")
    return weight_map


def _check_index(path: Path, weight_map: Mapping[str, str], held: Mapping[str, Iterable[str]]) -> None:
    stated = {(shard, name) for name, shard in weight_map.items()}
    found = {(shard, name) for shard, names in held.items() for name in names}
    faults = []
    if missing := sorted(f"{name} (in {shard})" for shard, name in stated - found):
        faults.append(f"tensors that their shards do not hold: {listing(missing)}")
    if unexpected := sorted(f"{name} (in {shard})" for shard, name in found - stated):
        faults.append(f"tensors in shards that the index does not name there: {listing(unexpected)}")
    if faults:
        raise CheckpointError(f"{path} and the shards disagree: {'; '.join(faults)}. Download the checkpoint again")


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not set("\\\0") & set(name)
