"""Reads tensors in .bin files of the format before torch 1.6, by torch and into memory.

It is imported only for such a file, after `torch_archive` has checked that it has plain tensors only. Files are
unpickled with `weights_only`, which runs no code.
"""

import pickle
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmexport.checkpoint.tensors import NUMPY_DTYPES, Array, TensorInfo
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

_OLDEST_TORCH = (2, 6)  # before 2.6, weights_only could be made to run code (CVE-2025-32434)

_DTYPE_NAMES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bool: "bool",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.float8_e4m3fn: "fp8_e4m3",
    torch.float8_e5m2: "fp8_e5m2",
}


def file_inventory(folder: Path, files: Iterable[str]) -> list[TensorInfo]:
    """The tensors of some .bin files. Raises CheckpointError for files that are damaged or have more than tensors."""
    return [info for file in files for info in _describe(folder / file, file, _load(folder / file))]


def _describe(path: Path, file: str, tensors: Mapping[str, Any]) -> list[TensorInfo]:
    faults = [f"{name} is {found}" for name, value in tensors.items() if (found := _unusable(value))]
    if faults:
        raise CheckpointError(
            f"{path}: expected a flat dictionary of plain tensors, but {listing(faults)}; save the state dict"
        )
    return [
        TensorInfo(name, _DTYPE_NAMES[t.dtype], tuple(t.shape), file, None, t.numel() * t.element_size())
        for name, t in tensors.items()
    ]


def _unusable(value: Any) -> str | None:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    if value.layout is not torch.strided or value.is_quantized:
        return f"a {value.layout} tensor"
    return None if value.dtype in _DTYPE_NAMES else f"of dtype {value.dtype}"


def _load(path: Path) -> dict[str, Any]:
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _OLDEST_TORCH:
        raise CheckpointError(f"torch {torch.__version__} cannot read {path} safely; install rmexport[torch] (>= 2.6)")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} has more than tensors, and reading that could run code: {str(error).splitlines()[0]}. "
            "Ask its publisher for safetensors"
        ) from error
    except Exception as error:  # damaged pickles make the unpickler raise errors of any type
        raise CheckpointError(f"{path} is damaged ({error!r:.200}); download it again") from error
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise CheckpointError(
            f"{path} holds a {type(tensors).__name__}, expected a dictionary of tensors by name; save the state dict"
        )
    return tensors


class TorchReader:
    """Reads elements of .bin files, including shared storages and strided views."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._files: dict[str, dict[str, Any]] = {}

    def read_into(self, info: TensorInfo, start: int, out: Array) -> None:
        """See TensorReader. Raises CheckpointError when the file can no longer be read."""
        with self._lock:
            tensor = self._tensors(info.file)[info.name].detach()
            np.copyto(out, _as_numpy(_flat_range(tensor, start, start + out.size), info.dtype))

    def _tensors(self, file: str) -> dict[str, Any]:
        if file not in self._files:
            self._files[file] = _load(self._folder / file)
        return self._files[file]


def _flat_range(tensor: Any, start: int, stop: int) -> Any:
    """Elements [start, stop) in row-major order; of a strided view only the rows that are needed are copied."""
    if tensor.is_contiguous():
        return tensor.view(-1)[start:stop]
    width = tensor[0].numel()
    first, last = start // width, -(-stop // width)
    return tensor[first:last].reshape(-1)[start - first * width : stop - first * width]


def _as_numpy(flat: Any, dtype: str) -> Array:
    numpy_dtype = NUMPY_DTYPES[dtype]
    if flat.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):  # numpy has no such type of its own
        flat = flat.view(torch.int16 if numpy_dtype.itemsize == 2 else torch.uint8)
    array: Array = flat.numpy()
    return array.view(numpy_dtype)
