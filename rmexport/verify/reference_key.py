"""What decides the reference's bits: two runs that agree in all of this may share what one of them computed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rmexport.checkpoint import Checkpoint
from rmexport.errors import CheckpointError, VerificationError
from rmexport.options import ExportOptions
from rmexport.prompt.recipe import recipe_for
from rmexport.verify.processor import read_processor
from rmexport.version import __version__
from rmruntime.sequences import TokenSequence

# Options that say how a bundle is written. The recipe counts by its content, the revision by the files that it names.
WITHOUT_EFFECT = frozenset(
    {
        "dtype", "weights", "quantize", "overwrite", "hash", "max_shard_size", "restart", "stages", "stage_layers",
        "recipe", "revision",
    }
)  # fmt: skip
_BLOCK, _BLOCKS = 1 << 16, 64  # bytes and number of the parts that are looked at of a file without a known hash


@dataclass(frozen=True, kw_only=True)
class ReferenceKey:
    """All that the reference of a checkpoint depends on, but for the dtype and the sequences."""

    checkpoint: Checkpoint
    files: tuple[tuple[str, int, int], ...]  # name, size, modification time in ns
    facts: Mapping[str, Any]

    def digest(self, dtype: str) -> str:
        """64 hexadecimal digits."""
        facts = {**self.facts, "files": self.files, "dtype": dtype}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def check(self) -> None:
        """Raises VerificationError where a file of the checkpoint is no longer the one that was opened."""
        now = _states(self.checkpoint)
        if now != self.files:
            changed = sorted({name for name, *_ in set(now) ^ set(self.files)})
            raise VerificationError(
                f"{', '.join(changed)} of {self.checkpoint.folder} changed while verify read the checkpoint; run it "
                "again when nothing writes there"
            )


def read_key(checkpoint: Checkpoint, options: ExportOptions, arithmetic: Mapping[str, Any]) -> ReferenceKey:
    """The key of a checkpoint as it is now, read with `options`, and of the `arithmetic` that computes.

    Looks at every file's size and time; raises CheckpointError where one cannot be read.
    """
    recipe = recipe_for(options.recipe, checkpoint.repo)
    facts = {
        "checkpoint": str(checkpoint.folder.resolve()),
        "content": [[f.name, f.sha256 or _sample(checkpoint.path(f.name))] for f in checkpoint.source_files],
        "recipe": asdict(recipe) if recipe else None,
        "options": {name: value for name, value in asdict(options).items() if name not in WITHOUT_EFFECT},
        "rmexport": [__version__, _own_sources()],
        "arithmetic": dict(arithmetic),
        "processor": read_processor().level,
    }
    return ReferenceKey(checkpoint=checkpoint, files=_states(checkpoint), facts=facts)


def sequence_key(sequence: TokenSequence) -> str:
    """The same for two sequences of the same tokens, reads and types: 64 hexadecimal digits.

    >>> sequence = TokenSequence(ids=np.array([5, 7]), reads={"score": np.array([1])})
    >>> sequence_key(sequence) == sequence_key(TokenSequence(ids=np.array([5, 7]), reads=sequence.reads, truncated=3))
    True
    """
    parts = {"ids": sequence.ids, **{f"read {role}": at for role, at in sequence.reads.items()}}
    parts |= {} if sequence.types is None else {"types": sequence.types}
    digest = hashlib.sha256()
    for name, values in sorted(parts.items()):
        digest.update(f"{name} {len(values)}\n".encode() + values.astype(np.int64).tobytes())
    return digest.hexdigest()


def _states(checkpoint: Checkpoint) -> tuple[tuple[str, int, int], ...]:
    found = []
    for file in checkpoint.source_files:
        try:
            state = checkpoint.path(file.name).stat()
        except OSError as error:
            raise CheckpointError(f"{checkpoint.path(file.name)} cannot be read: {error.strerror}") from error
        found.append((file.name, state.st_size, state.st_mtime_ns))
    return tuple(found)


def _sample(path: Path) -> str:
    """A digest of blocks all over a file: some file systems and images give all files the same time."""
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            size = path.stat().st_size
            for start in (*range(0, size, max(_BLOCK, size // _BLOCKS)), max(0, size - _BLOCK)):
                file.seek(start)
                digest.update(file.read(_BLOCK))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


@cache
def _own_sources() -> str:
    """A digest of this package: between two releases the version alone does not tell what computed something."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(path for kind in ("*.py", "*.json") for path in root.rglob(kind)):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()
