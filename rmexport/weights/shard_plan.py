"""Decides which shards are kept as they are and which weights go to new shards."""

import json
import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rmexport.checkpoint import Checkpoint, TensorInfo
from rmexport.checkpoint.finite import FLOATS
from rmexport.errors import CheckpointError, OptionError
from rmexport.options import ExportOptions
from rmexport.weights.quantization import Quantized
from rmexport.weights.stored import StoredTensor, WeightLocation
from rmruntime.bundle.safetensors_header import DTYPES, ITEM_BYTES, LENGTH_BYTES

SHARD_BYTES = 5_000_000_000  # the most that a new shard has; the Hub's own have this size
# Shards are written in parallel, so a model that would fit into one gets a few.
_PARALLEL, _WORTH_SPLITTING = 4, 256 << 20
_ALIGNMENT = 64  # bytes
_HEADER_BYTES, _ENTRY_BYTES = 200, 200  # more than a header takes, and each entry without its name and shape
_SAFETENSORS_NAMES = {ours: theirs for theirs, (ours, _) in DTYPES.items()}


@dataclass(frozen=True)
class Piece:
    """A tensor's place in a shard, `offset` in bytes from the file's start; the rest as in StoredTensor."""

    name: str
    source: TensorInfo
    dtype: str
    rows: tuple[int, ...] | None
    offset: int
    nbytes: int
    wanted: bool = True
    stack: tuple[TensorInfo, ...] = ()
    quantized: Quantized | None = None

    @property
    def size(self) -> int:
        """Number of elements that it is made of."""
        return math.prod(self.quantized.shape) if self.quantized else self.nbytes // ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Shard:
    """A weight file of the bundle. `kept` is the checkpoint's file that it equals byte for byte; None for a new one.

    `header_bytes` come first; a kept shard's are in that file.
    """

    name: str
    kept: str | None
    header_bytes: int
    pieces: tuple[Piece, ...]
    header: bytes = b""

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.header_bytes + sum(piece.nbytes for piece in self.pieces)


@dataclass(frozen=True)
class Plan:
    """All weight files of a bundle, and where each wanted weight lies in them."""

    shards: tuple[Shard, ...]
    locations: Mapping[str, WeightLocation]


def plan_weights(checkpoint: Checkpoint, wanted: Sequence[StoredTensor], options: ExportOptions) -> Plan:
    """The weight files of a bundle.

    A shard is kept when all its tensors are wanted unchanged, and with `--weights link` when any is, unless it is
    larger than shards may be; the other weights go to new shards. Raises CheckpointError for weights that the
    checkpoint cannot give and OptionError for what links cannot do.
    """
    _check_wanted(checkpoint, wanted)
    if options.weights == "link":
        _check_linkable(checkpoint, wanted)
    unchanged = {w.source for w in wanted if _is_unchanged(checkpoint.tensors[w.source], w)}
    kept = [_kept_shard(checkpoint, file, unchanged) for file in _kept_files(checkpoint, unchanged, options)]
    kept = _within_size(kept, options)
    given = {piece.source.name for shard in kept for piece in shard.pieces}
    new = [w for w in wanted if w.source not in given or not _is_unchanged(checkpoint.tensors[w.source], w)]
    limit = options.max_shard_bytes or SHARD_BYTES
    shards = (*kept, *_new_shards(checkpoint, _once(new), limit, stem="model-extra" if kept else "model"))
    return Plan(shards, _locations(shards, wanted))


def _check_wanted(checkpoint: Checkpoint, wanted: Iterable[StoredTensor]) -> None:
    infos = checkpoint.tensors
    faults = [fault for w in wanted for part in _parts(w) if (fault := _fault(infos.get(part.source), part))]
    if faults:
        raise CheckpointError(f"the checkpoint does not hold the weights its config implies: {'; '.join(faults)}")


def _parts(wanted: StoredTensor) -> list[StoredTensor]:
    """A stacked weight as the tensors that it is made of; any other as it is."""
    if not wanted.stack:
        return [wanted]
    return [replace(wanted, name=s, source=s, shape=wanted.shape[1:], stack=()) for s in wanted.stack]


def _fault(info: TensorInfo | None, wanted: StoredTensor) -> str | None:
    if info is None:
        return f"{wanted.source} is missing"
    if wanted.rows is None:
        expected = info.shape
    elif not info.shape or not all(0 <= row < info.shape[0] for row in wanted.rows):
        lowest, highest = min(wanted.rows, default=0), max(wanted.rows, default=0)
        return f"{wanted.source} has shape {list(info.shape)}, rows {lowest} to {highest} are needed"
    else:
        expected = (len(wanted.rows), *info.shape[1:])
    shape = wanted.quantized.shape if wanted.quantized else wanted.shape
    if expected != shape:
        return f"{wanted.name} has shape {list(expected)}, expected {list(shape)}"
    if wanted.quantized:
        return None if info.dtype in FLOATS else f"{wanted.source} is {info.dtype}, which cannot be quantized"
    if wanted.dtype != info.dtype and not {wanted.dtype, info.dtype} <= set(FLOATS):
        return f"{wanted.source} is {info.dtype}, which cannot be stored as {wanted.dtype}"
    return None


def _is_unchanged(info: TensorInfo, wanted: StoredTensor) -> bool:
    plain = wanted.rows is None and not wanted.stack and not wanted.quantized
    return info.offset is not None and plain and wanted.dtype == info.dtype


def _check_linkable(checkpoint: Checkpoint, wanted: Iterable[StoredTensor]) -> None:
    infos = checkpoint.tensors
    if any(w.quantized for w in wanted):
        raise OptionError(
            "--weights link keeps the checkpoint's files, and --quantize stores other numbers: use --weights copy, or "
            "leave --quantize out"
        )
    if any(infos[w.source].offset is None for w in wanted):
        raise OptionError(
            "--weights link needs safetensors, this checkpoint has .bin files or an adapter: use --weights copy"
        )
    other = [
        f"{w.name} ({infos[w.source].dtype} to {w.dtype})" for w in wanted if _needs_conversion(infos[w.source], w)
    ]
    if other:
        shown = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        raise OptionError(f"--weights link cannot change the dtype of {shown}: use --weights copy, or --dtype auto")


def _needs_conversion(info: TensorInfo, wanted: StoredTensor) -> bool:
    return wanted.rows is None and not wanted.stack and wanted.dtype != info.dtype


def _kept_files(checkpoint: Checkpoint, unchanged: Container[str], options: ExportOptions) -> list[str]:
    files = {info.file for name, info in checkpoint.tensors.items() if name in unchanged}
    if options.weights == "copy":
        files -= {info.file for name, info in checkpoint.tensors.items() if name not in unchanged}
    return sorted(files)


def _kept_shard(checkpoint: Checkpoint, file: str, unchanged: Container[str]) -> Shard:
    held = sorted((i for i in checkpoint.tensors.values() if i.file == file), key=lambda info: info.offset or 0)
    pieces = tuple(Piece(i.name, i, i.dtype, None, i.offset or 0, i.nbytes, i.name in unchanged) for i in held)
    return Shard(name=file, kept=file, header_bytes=pieces[0].offset, pieces=pieces)


def _within_size(kept: list[Shard], options: ExportOptions) -> list[Shard]:
    """The shards that are not larger than the user allows, or cannot be smaller."""
    limit = options.max_shard_bytes
    large = [shard for shard in kept if limit and shard.size > limit and len(shard.pieces) > 1]
    if large and options.weights == "link":
        raise OptionError(
            f"--weights link keeps shards as they are, and {large[0].name} has {large[0].size:,} bytes, more than "
            f"--max-shard-size {options.max_shard_size}: use --weights copy, or leave the size out"
        )
    return [shard for shard in kept if shard not in large]


def _once(wanted: Iterable[StoredTensor]) -> list[StoredTensor]:
    """Tied weights are stored once."""
    return list({(w.source, w.dtype, w.rows, w.stack, w.quantized): w for w in reversed(list(wanted))}.values())[::-1]


def _new_shards(checkpoint: Checkpoint, wanted: Iterable[StoredTensor], limit: int, stem: str) -> list[Shard]:
    """New shards of about equal size, at most `limit` bytes, in the order in which the checkpoint is read."""
    infos = checkpoint.tensors
    in_file_order = sorted(wanted, key=lambda w: (infos[w.source].file, infos[w.source].offset or 0))
    sizes = [_nbytes(w) + _ENTRY_BYTES + 2 * len(w.name.encode()) + 24 * len(w.shape) for w in in_file_order]
    groups = cut_evenly(sizes, limit - _HEADER_BYTES, min(_PARALLEL, sum(sizes) // _WORTH_SPLITTING))
    names = [f"{stem}-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    return [
        _new_shard(checkpoint, name, [in_file_order[i] for i in group])
        for name, group in zip(names, groups, strict=True)
    ]


def _new_shard(checkpoint: Checkpoint, name: str, wanted: Iterable[StoredTensor]) -> Shard:
    # Tensors follow one another without holes, so those that would misalign their successors come last.
    ordered = sorted(wanted, key=lambda w: -ITEM_BYTES[w.dtype] if _nbytes(w) % _ALIGNMENT else -_ALIGNMENT)
    entries, at = {}, 0
    for w in ordered:
        entries[w.name] = {
            "dtype": _SAFETENSORS_NAMES[w.dtype],
            "shape": list(w.shape),
            "data_offsets": [at, at + _nbytes(w)],
        }
        at += _nbytes(w)
    header = _header({"__metadata__": {"format": "pt"}, **entries})
    pieces, at = [], len(header)
    for w in ordered:
        stack = tuple(checkpoint.tensors[source] for source in w.stack)
        source = checkpoint.tensors[w.source]
        pieces.append(Piece(w.name, source, w.dtype, w.rows, at, _nbytes(w), stack=stack, quantized=w.quantized))
        at += _nbytes(w)
    return Shard(name=name, kept=None, header_bytes=len(header), pieces=tuple(pieces), header=header)


def _header(entries: Mapping[str, object]) -> bytes:
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _nbytes(wanted: StoredTensor) -> int:
    size = ITEM_BYTES[wanted.dtype]
    for extent in wanted.shape:
        size *= extent
    return size


def _locations(shards: Iterable[Shard], wanted: Iterable[StoredTensor]) -> dict[str, WeightLocation]:
    at = {_key(p): (shard.name, p) for shard in shards for p in shard.pieces}
    locations = {}
    for w in wanted:
        file, piece = at[w.source, w.dtype, w.rows, w.stack, w.quantized]
        locations[w.name] = WeightLocation(file, piece.offset, piece.nbytes, w.dtype, w.shape, w.quantized)
    return locations


def _key(piece: Piece) -> tuple[str, str, tuple[int, ...] | None, tuple[str, ...], Quantized | None]:
    stack = tuple(info.name for info in piece.stack)
    return piece.source.name, piece.dtype, piece.rows, stack, piece.quantized


def cut_evenly(sizes: Sequence[int], most: int, least: int) -> list[range]:
    """Consecutive items in as few groups as `most` bytes a group allow, but `least` where there are as many items.

    Of the ways to do that, one whose largest group is smallest. An item of more than `most` has a group of its own.
    """
    count = max(len(_cut(sizes, most)), min(least, len(sizes)))
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        if len(_cut(sizes, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return _cut(sizes, high)


def _cut(sizes: Sequence[int], most: int) -> list[range]:
    """Each group as full as it may be."""
    groups, first, held = [], 0, 0
    for i, size in enumerate(sizes):
        if i > first and held + size > most:
            groups.append(range(first, i))
            first, held = i, 0
        held += size
    return [*groups, range(first, len(sizes))] if sizes else []
