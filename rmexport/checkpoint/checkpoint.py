"""A checkpoint as the export sees it: configuration, tokenizer, and tensors, which are read only when needed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rmexport.checkpoint.adapter import BASE_PREFIX, adapted_config, merge_adapter
from rmexport.checkpoint.adapter_config import ADAPTER_CONFIG, read_adapter_config
from rmexport.checkpoint.adapter_files import is_adapter, locate_base, read_adapter
from rmexport.checkpoint.config_fields import read_json_object
from rmexport.checkpoint.cross_encoder_files import module_files
from rmexport.checkpoint.origin import Origin, hub_sha256, locate
from rmexport.checkpoint.sidecar_heads import with_side_files
from rmexport.checkpoint.tensors import NUMPY_DTYPES, Array, TensorInfo
from rmexport.checkpoint.tokenizer_files import (
    TokenizerFiles,
    has_tokenizer,
    present_files,
    read_adapter_tokenizer,
    read_tokenizer,
)
from rmexport.checkpoint.unmerged_peft import merge_unmerged
from rmexport.checkpoint.weight_files import WeightFiles, find_weights
from rmexport.checkpoint.wrapped_names import unwrapped
from rmexport.errors import CheckpointError
from rmruntime.bundle.bundle import file_sha256
from rmruntime.bundle.manifest import FileRecord, FileRole

CONFIG = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. `repo` and `revision` (a commit) are set when it came from the Hub, or its cache.

    A LoRA adapter has a `base`, another checkpoint; its tensors are the merged ones.
    """

    folder: Path
    repo: str | None
    revision: str | None
    config: Mapping[str, Any]
    weights: WeightFiles
    base: "Checkpoint | None" = None

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""
        return self.weights.tensors

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on choices that were made when it was opened: how an adapter was merged, which of two files is used."""
        return (*(self.base.notes if self.base else ()), *self.weights.notes)

    def path(self, name: str) -> Path:
        """The path of the source file `name`, which may be a base's."""
        if self.base is not None and name.startswith(BASE_PREFIX):
            return self.base.path(name.removeprefix(BASE_PREFIX))
        return self.folder / name

    def read(self, name: str) -> Array:
        """A whole tensor in memory; bf16 has the dtype of ml_dtypes. Raises CheckpointError."""
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
        if self.base is not None:
            return read_adapter_tokenizer(self.folder, self.base._tokenizer_folder, self.config)
        return read_tokenizer(self.folder)

    @cached_property
    def source_files(self) -> tuple[FileRecord, ...]:
        """Every file that an export reads, relative to the folder, weights last; then a base's, under `base/`.

        Small files have a hash of their content, weights only where the Hub's cache names it. Raises CheckpointError
        when a file cannot be read.
        """
        configs = [*([ADAPTER_CONFIG] if self.base else self.weights.settings), CONFIG]
        small = [name for name in configs if (self.folder / name).is_file()] + present_files(self.folder)
        small += module_files(self.folder)
        small += [self.weights.index] if self.weights.index else []
        try:
            own = [self._record(name, file_sha256(self.folder / name)) for name in small]
            own += [self._record(name, hub_sha256(self.folder / name), "weights") for name in self.weights.files]
        except OSError as error:
            raise CheckpointError(
                f"{error.filename} cannot be read: {error.strerror}; see to its permissions or disk"
            ) from error
        inherited = self.base.source_files if self.base else ()
        return (*own, *(replace(record, name=BASE_PREFIX + record.name) for record in inherited))

    @property
    def _tokenizer_folder(self) -> Path:
        if self.base is None or has_tokenizer(self.folder):
            return self.folder
        return self.base._tokenizer_folder

    def _record(self, name: str, sha256: str | None, role: FileRole | None = None) -> FileRecord:
        return FileRecord(name=name, size=(self.folder / name).stat().st_size, role=role, sha256=sha256)

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.folder} has no tensor {name!r}; is it the checkpoint that config.json describes?"
            )
        return self.tensors[name]


def open_checkpoint(path_or_repo: str, *, revision: str | None = None) -> Checkpoint:
    """Open a local folder or a Hub repository (downloading what an export needs); a LoRA adapter opens its base too.

    Reads the configuration and the weights' headers, no weights. Raises CheckpointError when something is missing,
    damaged or contradicts itself, and OptionError for a revision of a local folder.

    >>> open_checkpoint("no/such/folder")
    Traceback (most recent call last):
    rmexport.errors.CheckpointError: 'no/such/folder' is neither a local folder nor a Hub repository id ...
    """
    return _open(locate(path_or_repo, revision), above=())


def _open(origin: Origin, above: tuple[Path, ...]) -> Checkpoint:
    """The checkpoint at `origin`; `above` are the folders of adapters whose base it is."""
    if is_adapter(origin.folder):
        return _open_adapter(origin, above)
    if not (origin.folder / CONFIG).is_file():
        raise CheckpointError(f"{origin.folder} has no {CONFIG}; give the folder of a complete Hugging Face checkpoint")
    config = read_json_object(origin.folder / CONFIG)
    weights = unwrapped(find_weights(origin.folder))
    weights = merge_unmerged(origin.folder, weights, config)
    weights = with_side_files(origin.folder, weights)
    return Checkpoint(origin.folder, origin.repo, origin.revision, config, weights)


def _open_adapter(origin: Origin, above: tuple[Path, ...]) -> Checkpoint:
    folder = origin.folder
    if folder.resolve() in above:
        raise CheckpointError(f"{folder} is an adapter of itself; write its base into {ADAPTER_CONFIG}")
    lora = read_adapter_config(folder)
    adapter = read_adapter(folder)
    base = _open(locate_base(lora, folder), (*above, folder.resolve()))
    weights = merge_adapter(lora, adapter, base.weights, base.config.get("model_type"))
    own = read_json_object(folder / CONFIG) if (folder / CONFIG).is_file() else None
    config = adapted_config(lora, base.config, own, weights)
    return Checkpoint(folder, origin.repo, origin.revision, config, weights, base)
