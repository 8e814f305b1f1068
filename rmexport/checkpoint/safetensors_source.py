"""Reads tensors in safetensors files: a list of them from the headers, and elements at their places."""

from collections.abc import Iterable
from pathlib import Path

from rmexport.checkpoint.positioned_reader import PositionedReader
from rmexport.checkpoint.tensors import Array, TensorInfo
from rmexport.errors import CheckpointError
from rmruntime.bundle.safetensors_header import HeaderError, read_header


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
    """Reads elements directly into the caller's memory; nothing is mapped, so process memory stays small."""

    def __init__(self, folder: Path) -> None:
        self._files = PositionedReader(folder)

    def read_into(self, info: TensorInfo, start: int, out: Array) -> None:
        """See TensorReader. Raises CheckpointError when the file cannot be read or became shorter."""
        if info.offset is None:
            raise ValueError(
                f"{info.name} is in {info.file}, expected a safetensors file; use the reader of its format"
            )
        self._files.read(info.file, info.offset + start * out.itemsize, out)
