"""Reads tensors in torch's .bin and .pt files: zip archives in place, files older than torch 1.6 by torch."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rmexport.checkpoint.positioned_reader import PositionedReader
from rmexport.checkpoint.tensors import NUMPY_DTYPES, Array, TensorInfo, TensorReader
from rmexport.checkpoint.torch_archive import BrokenArchive, MoreThanTensors, OldFormat, PlacedTensor, read_archive
from rmexport.errors import CheckpointError


def file_inventory(folder: Path, files: Iterable[str]) -> list[TensorInfo]:
    """The tensors of some files of `folder`. Raises CheckpointError for files that are damaged or have other values.

    Also when a file is older than torch 1.6, and torch, which reads that format, is not installed.
    """
    return [info for file in files for info in _describe(folder, file)]


def _describe(folder: Path, file: str) -> list[TensorInfo]:
    try:
        placed = _placed(folder / file)
    except OldFormat as reason:
        tensors: list[TensorInfo] = _torch_shards(folder / file, reason).file_inventory(folder, [file])
        return tensors
    return [
        TensorInfo(name, t.dtype, t.shape, file, None, t.size * NUMPY_DTYPES[t.dtype].itemsize)
        for name, t in placed.items()
    ]


def _placed(path: Path) -> dict[str, PlacedTensor]:
    try:
        return read_archive(path)
    except BrokenArchive as error:
        raise CheckpointError(f"{path} is damaged: {error}; download it again") from error
    except MoreThanTensors as error:
        raise CheckpointError(
            f"{path} has more than tensors by name, and reading that could run code: {error}. Ask its publisher for "
            "safetensors, or save only the state dict"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; see to its permissions or disk") from error


def _torch_shards(path: Path, reason: OldFormat) -> Any:
    """The module that reads files by torch, imported only where one is needed."""
    try:
        return importlib.import_module("rmexport.checkpoint.torch_shards")
    except ImportError as error:
        raise CheckpointError(
            f"{path} is a pickle that only torch reads ({reason}; {error}): pip install 'rmexport[torch]', "
            "or use a checkpoint with safetensors"
        ) from error


class BinReader:
    """Reads elements of .bin files, including shared storages and strided views."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = PositionedReader(folder)
        self._known: dict[str, Mapping[str, PlacedTensor] | TensorReader] = {}

    def read_into(self, info: TensorInfo, start: int, out: Array) -> None:
        """See TensorReader. Raises CheckpointError when the file can no longer be read."""
        known = self._known.get(info.file) or self._open(info.file)
        if not isinstance(known, Mapping):
            known.read_into(info, start, out)
        elif known[info.name].is_contiguous:
            self._files.read(info.file, known[info.name].offset + start * out.itemsize, out)
        else:
            _read_strided(self._folder / info.file, known[info.name], start, out)

    def _open(self, file: str) -> Mapping[str, PlacedTensor] | TensorReader:
        """The file's tensors, or its reader. Two threads may both open a file; they find the same."""
        try:
            known: Mapping[str, PlacedTensor] | TensorReader = _placed(self._folder / file)
        except OldFormat as reason:
            known = _torch_shards(self._folder / file, reason).TorchReader(self._folder)
        return self._known.setdefault(file, known)


def _read_strided(path: Path, tensor: PlacedTensor, start: int, out: Array) -> None:
    """Read elements in row-major order; only the rows that are needed are copied from a map of the file."""
    dtype, width = NUMPY_DTYPES[tensor.dtype], tensor.size // tensor.shape[0]
    try:
        raw = np.memmap(path, np.uint8, "r", tensor.offset, (tensor.extent * dtype.itemsize,))
    except (OSError, ValueError) as error:  # ValueError: the file is shorter than that
        raise CheckpointError(f"{path} cannot be read: {error}; download it again") from error
    strides = [stride * dtype.itemsize for stride in tensor.strides]
    view = np.ndarray(tensor.shape, dtype, raw.data, strides=strides)
    first, last = start // width, -(-(start + out.size) // width)
    out[:] = view[first:last].reshape(-1)[start - first * width : start - first * width + out.size]
