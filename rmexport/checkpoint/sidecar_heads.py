"""Reads heads in files of their own beside the shards: value heads, LDL's two networks, Sentence Transformers' Dense.

`value_head.safetensors` (else `value_head.bin`) holds `v_head.summary.*`, as LLaMA-Factory's fix_valuehead_checkpoint
writes it; oldest versions leave out `v_head.`. `regression_layer.pt` and `gating_layer.pt` hold the state dicts of
LDL-Reward's two networks (reward-bench, models/ldlreward.py), whose tensors get the files' names as prefix; a Dense
layer of Sentence Transformers has its folder's name.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rmexport.checkpoint.cross_encoder_files import dense_file
from rmexport.checkpoint.tensors import Route, RoutedReader, TensorInfo
from rmexport.checkpoint.weight_files import WeightFiles, read_weights
from rmexport.checkpoint.wrapped_names import unwrapped
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

VALUE_HEADS = ("value_head.safetensors", "value_head.bin")  # in LLaMA-Factory's order of preference
NETWORKS = ("regression_layer.pt", "gating_layer.pt")


def with_side_files(folder: Path, weights: WeightFiles) -> WeightFiles:
    """`weights`, and the weights of the side files in `folder`.

    A side file replaces tensors of the same name in the shards, because LLaMA-Factory loads it last; a note tells so.
    Raises CheckpointError where their shapes differ, or a side file is damaged or has more than tensors.
    """
    heads = read_side_files(folder)
    if not heads.files:
        return weights
    if clash := sorted(weights.tensors.keys() & heads.tensors.keys()):
        _check_shapes(folder, clash, weights.tensors, heads.tensors)
    routes = {name: Route(weights.reader, info) for name, info in weights.tensors.items()}
    routes |= {name: Route(heads.reader, info) for name, info in heads.tensors.items()}
    tensors = {**_without(weights.tensors, clash), **heads.tensors}
    notes = tuple(f"{heads.tensors[name].file} replaces the {name} of {weights.tensors[name].file}" for name in clash)
    return replace(
        weights,
        tensors=tensors,
        reader=RoutedReader(routes),
        files=(*weights.files, *heads.files),
        notes=(*weights.notes, *heads.notes, *notes),
    )


def read_side_files(folder: Path) -> WeightFiles:
    """The tensors of the side files only; empty where there are no such files. Raises CheckpointError."""
    value_head = [file for file in VALUE_HEADS if (folder / file).is_file()][:1]
    dense = dense_file(folder)
    files = (*value_head, *(file for file in NETWORKS if (folder / file).is_file()), *([dense] if dense else []))
    tensors: dict[str, TensorInfo] = {}
    routes: dict[str, Route] = {}
    notes: tuple[str, ...] = ()
    for file in files:
        found = unwrapped(read_weights(folder, file))
        notes += found.notes
        for name, info in found.tensors.items():
            full = _full_name(file, name)
            tensors[full] = replace(info, name=full)
            routes[full] = Route(found.reader, info)
    return WeightFiles(tensors, RoutedReader(routes), files, notes=notes)


def _full_name(file: str, name: str) -> str:
    if file in NETWORKS:
        return f"{file.removesuffix('.pt')}.{name}"
    if "/" in file:  # a module's own folder
        return f"{file.partition('/')[0]}.{name}"
    return f"v_head.{name}" if name.startswith("summary.") else name


def _check_shapes(
    folder: Path, names: list[str], shards: Mapping[str, TensorInfo], heads: Mapping[str, TensorInfo]
) -> None:
    differing = [
        f"{name} is {list(heads[name].shape)} in {heads[name].file} and {list(shards[name].shape)} in "
        f"{shards[name].file}"
        for name in names
        if heads[name].shape != shards[name].shape
    ]
    if differing:
        raise CheckpointError(
            f"{folder} holds two heads: {listing(differing)}. Remove the file that does not belong to the model"
        )


def _without(tensors: Mapping[str, TensorInfo], names: list[str]) -> dict[str, TensorInfo]:
    """The shards' tensors without `names`, and without offsets in these shards, so that they are not kept whole."""
    gaps = {tensors[name].file for name in names}
    return {
        name: replace(info, offset=None) if info.file in gaps else info
        for name, info in tensors.items()
        if name not in names
    }
