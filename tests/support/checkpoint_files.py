"""Writes small checkpoints as raw files, valid or broken on purpose, without torch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

Tensors = Mapping[str, np.ndarray[Any, Any]]

NAMES = {
    "bfloat16": "BF16",
    "float16": "F16",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "bool": "BOOL",
    "uint8": "U8",
}


def header_of(tensors: Tensors) -> dict[str, Any]:
    """The header that the safetensors format prescribes for `tensors` in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, array in tensors.items():
        offsets = [at, at + array.nbytes]
        header[name] = {"dtype": NAMES[array.dtype.name], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    return header


def file_of(header: bytes | Mapping[str, Any], data: bytes = b"") -> bytes:
    """A safetensors file from its header, given as JSON or as raw bytes, and what follows it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def write_safetensors(path: Path, tensors: Tensors) -> Path:
    """A valid safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(np.ascontiguousarray(array).tobytes() for array in tensors.values())
    path.write_bytes(file_of(header_of(tensors), data))
    return path


def write_sharded(folder: Path, shards: Sequence[Tensors], index: Mapping[str, str] | None = None) -> Path:
    """A checkpoint of several shards; `index` replaces the true one."""
    names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for name, tensors in zip(names, shards, strict=True):
        write_safetensors(folder / name, tensors)
    true = {tensor: name for name, tensors in zip(names, shards, strict=True) for tensor in tensors}
    weight_map = true if index is None else index
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return with_config(folder)


def write_single(folder: Path, tensors: Tensors) -> Path:
    """A checkpoint of one file."""
    write_safetensors(folder / "model.safetensors", tensors)
    return with_config(folder)


def with_config(folder: Path, config: Mapping[str, Any] | None = None) -> Path:
    """Add a config.json."""
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    return folder


def bf16(shape: Sequence[int], seed: int = 0, scale: float = 0.02) -> np.ndarray[Any, Any]:
    """Random weights of the usual size, some of them subnormal in fp16."""
    return (np.random.default_rng(seed).standard_normal(tuple(shape)) * scale).astype(ml_dtypes.bfloat16)


def as_hub_snapshot(folder: Path, cache: Path, repo: str = "someone/rm", commit: str = "c" * 40) -> Path:
    """Move a checkpoint into the Hub cache's layout: a folder of links to files named by their content's hash."""
    import hashlib

    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot, blobs = root / "snapshots" / commit, root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for file in sorted(folder.iterdir()):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot
