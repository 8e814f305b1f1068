"""A checkpoint as the export sees it: configuration, tokenizer, and tensors that are read only when asked for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rmexport.checkpoint.json_file import read_json_object
from rmexport.checkpoint.origin import hub_sha256, locate
from rmexport.checkpoint.tensors import NUMPY_DTYPES, Array, TensorInfo
from rmexport.checkpoint.tokenizer_files import TokenizerFiles, present_files, read_tokenizer
from rmexport.checkpoint.weight_files import WeightFiles, find_weights
from rmexport.errors import CheckpointError
from rmruntime.bundle import file_sha256
from rmruntime.manifest import FileRecord, FileRole

CONFIG = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. `repo` and `revision` (a commit) are set when it came from the Hub, or its cache."""

    folder: Path
    repo: str | None
    revision: str | None
    config: Mapping[str, Any]
    weights: WeightFiles

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""
        return self.weights.tensors

    def read(self, name: str) -> Array:
        """A whole tensor in memory; bfloat16 as ml_dtypes has it. Raises CheckpointError."""
        info = self._info(name)
        out = np.empty(info.size, NUMPY_DTYPES[info.dtype])
        self.read_into(name, 0, out)
        return out.reshape(info.shape)

    def read_into(self, name: str, start: int, out: Array) -> None:
        """Fill the flat array `out`, of the tensor's dtype, with its elements from index `start` on. Thread-safe."""
        self.weights.reader.read_into(self._info(name), start, out)

    def chunks(self, name: str, max_bytes: int = 1 << 20) -> Iterator[Array]:
        """The tensor's elements in row-major order, in flat arrays of at most `max_bytes`, and at least one."""
        info = self._info(name)
        dtype = NUMPY_DTYPES[info.dtype]
        step = max(1, max_bytes // dtype.itemsize)
        for start in range(0, info.size, step):
            out = np.empty(min(step, info.size - start), dtype)
            self.read_into(name, start, out)
            yield out

    def read_tokenizer(self) -> TokenizerFiles:
        """The tokenizer and chat template. Raises CheckpointError when there is none."""
        return read_tokenizer(self.folder)

    @cached_property
    def source_files(self) -> tuple[FileRecord, ...]:
        """Every file that an export reads, relative to the folder, weights last.

        Content hashes of the small files; those of weights only where the Hub's cache states them. Raises
        CheckpointError when one cannot be read.
        """
        small = [CONFIG, *present_files(self.folder), *([self.weights.index] if self.weights.index else [])]
        weights = sorted({info.file for info in self.tensors.values()})
        try:
            records = [self._record(name, file_sha256(self.folder / name)) for name in small]
            return (*records, *(self._record(name, hub_sha256(self.folder / name), "weights") for name in weights))
        except OSError as error:
            raise CheckpointError(f"{error.filename} cannot be read: {error.strerror}") from error

    def _record(self, name: str, sha256: str | None, role: FileRole | None = None) -> FileRecord:
        return FileRecord(name=name, size=(self.folder / name).stat().st_size, role=role, sha256=sha256)

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.folder} has no tensor {name!r}; is it the checkpoint that config.json describes?"
            )
        return self.tensors[name]


def open_checkpoint(path_or_repo: str, *, revision: str | None = None) -> Checkpoint:
    """Open a local folder or a Hub repository (downloading what an export needs).

    Reads the configuration and the weights' headers, no weights. Raises CheckpointError when something is missing,
    damaged or contradicts itself, and OptionError for a revision of a local folder.
    """
    origin = locate(path_or_repo, revision)
    if not (origin.folder / CONFIG).is_file():
        raise CheckpointError(f"{origin.folder} has no {CONFIG}; give the folder of a complete Hugging Face checkpoint")
    config = read_json_object(origin.folder / CONFIG)
    return Checkpoint(origin.folder, origin.repo, origin.revision, config, find_weights(origin.folder))
