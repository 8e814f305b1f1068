"""Tensors in safetensors files: an inventory from the headers, elements by positioned reads."""

import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rmexport.checkpoint.tensors import Array, TensorInfo
from rmexport.errors import CheckpointError
from rmruntime.safetensors_header import HeaderError, read_header


def file_inventory(folder: Path, files: Iterable[str]) -> list[TensorInfo]:
    """The tensors of some safetensors files. Raises CheckpointError naming every damaged file."""
    tensors, faults = [], []
    for file in files:
        try:
            header = read_header(folder / file)
        except HeaderError as error:
            faults.append(str(error))
        except OSError as error:
            faults.append(f"{file}: cannot be read: {error.strerror}")
        else:
            tensors += [TensorInfo(n, e.dtype, e.shape, file, e.begin, e.nbytes) for n, e in header.items()]
    if faults:
        raise CheckpointError(f"damaged weights in {folder}: {'; '.join(faults)}. Download these files again")
    return tensors


class SafetensorsReader:
    """Reads elements straight into the caller's memory; nothing is mapped, so no page counts as this process's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptors: dict[str, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._descriptors)

    def read_into(self, info: TensorInfo, start: int, out: Array) -> None:
        """See TensorReader. Raises CheckpointError when the file cannot be read or became shorter."""
        if info.offset is None:
            raise ValueError(f"{info.name} lies in {info.file}, which is no safetensors file")
        target = out.view(np.uint8).data
        at = info.offset + start * out.itemsize
        try:
            descriptor = self._descriptor(info.file)
            while target:
                count = os.preadv(descriptor, [target], at)
                if not count:
                    raise CheckpointError(f"{self._folder / info.file} became shorter while it was read")
                target, at = target[count:], at + count
        except OSError as error:
            raise CheckpointError(f"{self._folder / info.file} cannot be read: {error.strerror}") from error

    def _descriptor(self, file: str) -> int:
        with self._lock:
            if file not in self._descriptors:
                descriptor = os.open(self._folder / file, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
                self._descriptors[file] = descriptor
            return self._descriptors[file]


def _close_all(descriptors: dict[str, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)
