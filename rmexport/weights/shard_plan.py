"""Decides which shards are kept as they are and which weights go to new shards."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rmexport.checkpoint import Checkpoint, TensorInfo
from rmexport.checkpoint.derived_tensors import TensorAlias, TensorRows, TensorStack
from rmexport.checkpoint.finite import FLOATS
from rmexport.errors import CheckpointError, OptionError
from rmexport.options import ExportOptions
from rmexport.weights.safetensors_layout import lay_out
from rmexport.weights.weight_spec import WeightLocation, WeightSpec
from rmruntime.errors import listing

SHARD_BYTES = 5_000_000_000  # the most that a new shard has; the Hub's own have this size
# Shards are written in parallel, so a model that would fit into one gets a few.
_PARALLEL, _WORTH_SPLITTING = 4, 256 << 20
_HEADER_BYTES, _ENTRY_BYTES = 200, 200  # more than a header takes, and each entry without its name and shape


@dataclass(frozen=True)
class Piece:
    """A weight's place in a shard, `offset` in bytes from the file's start; kept shards may have some not `wanted`."""

    weight: WeightSpec
    offset: int
    wanted: bool = True


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
        return self.header_bytes + sum(piece.weight.nbytes for piece in self.pieces)


@dataclass(frozen=True)
class Plan:
    """All weight files of a bundle, and where each wanted weight lies in them."""

    shards: tuple[Shard, ...]
    locations: Mapping[str, WeightLocation]


def plan_weights(checkpoint: Checkpoint, wanted: Sequence[WeightSpec], options: ExportOptions) -> Plan:
    """The weight files of a bundle.

    A shard is kept when all its tensors are wanted unchanged, and with `--weights link` when any is, unless it is
    larger than shards may be; the other weights go to new shards. Raises CheckpointError for weights that the
    checkpoint cannot give and OptionError for what links cannot do.
    """
    _check_wanted(checkpoint, wanted)
    if options.weights == "link":
        _check_linkable(checkpoint, wanted)
    unchanged = {w.sources[0] for w in wanted if _is_unchanged(checkpoint, w)}
    kept = [_kept_shard(checkpoint, file, unchanged) for file in _kept_files(checkpoint, unchanged, options)]
    kept = _within_size(kept, options)
    given = {piece.weight.name for shard in kept for piece in shard.pieces}
    new = [w for w in wanted if w.sources[0] not in given or not _is_unchanged(checkpoint, w)]
    limit = options.max_shard_bytes or SHARD_BYTES
    shards = (*kept, *_new_shards(checkpoint, _once(new), limit, stem="model-extra" if kept else "model"))
    return Plan(shards, _locations(shards, wanted))


def _check_wanted(checkpoint: Checkpoint, wanted: Iterable[WeightSpec]) -> None:
    faults = [fault for weight in wanted for fault in _faults(checkpoint.tensors, weight)]
    if faults:
        raise CheckpointError(f"the checkpoint does not hold the weights its config implies: {'; '.join(faults)}")


def _faults(infos: Mapping[str, TensorInfo], wanted: WeightSpec) -> Iterator[str]:
    """At most one of each tensor that the weight is made of."""
    made = wanted.made
    if isinstance(made, TensorStack):
        for source in made.sources:
            part = replace(wanted, name=source, shape=wanted.shape[1:], made=TensorAlias(source=source))
            yield from _faults(infos, part)
    elif made.source not in infos:
        yield f"{made.source} is missing"
    elif fault := _wrong_shape(infos[made.source], wanted, made) or _wrong_dtype(infos[made.source], wanted):
        yield fault


def _wrong_shape(info: TensorInfo, wanted: WeightSpec, made: TensorAlias | TensorRows) -> str | None:
    expected = info.shape
    if isinstance(made, TensorRows):
        if not info.shape or not all(0 <= row < info.shape[0] for row in made.rows):
            lowest, highest = min(made.rows, default=0), max(made.rows, default=0)
            return f"{made.source} has shape {list(info.shape)}, rows {lowest} to {highest} are needed"
        expected = (len(made.rows), *info.shape[1:])
    shape = wanted.quant.shape if wanted.quant else wanted.shape
    if expected != shape:
        return f"{wanted.name} has shape {list(expected)}, expected {list(shape)}"
    return None


def _wrong_dtype(info: TensorInfo, wanted: WeightSpec) -> str | None:
    if wanted.quant:
        return None if info.dtype in FLOATS else f"{info.name} is {info.dtype}, which cannot be quantized"
    if wanted.dtype != info.dtype and not {wanted.dtype, info.dtype} <= set(FLOATS):
        return f"{info.name} is {info.dtype}, which cannot be stored as {wanted.dtype}"
    return None


def _is_unchanged(checkpoint: Checkpoint, wanted: WeightSpec) -> bool:
    info = checkpoint.tensors[wanted.sources[0]]
    return info.offset is not None and wanted.is_whole and wanted.dtype == info.dtype


def _check_linkable(checkpoint: Checkpoint, wanted: Iterable[WeightSpec]) -> None:
    infos = checkpoint.tensors
    if any(w.quant for w in wanted):
        raise OptionError(
            "--weights link keeps the checkpoint's files, and --quantize stores other numbers: use --weights copy, or "
            "leave --quantize out"
        )
    if any(infos[source].offset is None for w in wanted for source in w.sources):
        raise OptionError(
            "--weights link needs safetensors, this checkpoint has .bin files or an adapter: use --weights copy"
        )
    held = [(w, infos[w.sources[0]].dtype) for w in wanted if w.is_whole]
    other = [f"{w.name} ({dtype} to {w.dtype})" for w, dtype in held if dtype != w.dtype]
    if other:
        shown = listing(other, most=5)
        raise OptionError(f"--weights link cannot change the dtype of {shown}: use --weights copy, or --dtype auto")


def _kept_files(checkpoint: Checkpoint, unchanged: Container[str], options: ExportOptions) -> list[str]:
    files = {info.file for name, info in checkpoint.tensors.items() if name in unchanged}
    if options.weights == "copy":
        files -= {info.file for name, info in checkpoint.tensors.items() if name not in unchanged}
    return sorted(files)


def _kept_shard(checkpoint: Checkpoint, file: str, unchanged: Container[str]) -> Shard:
    held = sorted((i for i in checkpoint.tensors.values() if i.file == file), key=lambda info: info.offset or 0)
    pieces = tuple(
        Piece(WeightSpec(i.name, i.dtype, i.shape, TensorAlias(source=i.name)), i.offset or 0, i.name in unchanged)
        for i in held
    )
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


def _once(wanted: Iterable[WeightSpec]) -> list[WeightSpec]:
    """Tied weights are stored once."""
    return list({w.content: w for w in reversed(list(wanted))}.values())[::-1]


def _new_shards(checkpoint: Checkpoint, wanted: Sequence[WeightSpec], limit: int, stem: str) -> list[Shard]:
    """New shards of about equal size, at most `limit` bytes, in the order in which the checkpoint is read."""
    first = {w.name: checkpoint.tensors[w.sources[0]] for w in wanted}
    in_file_order = sorted(wanted, key=lambda w: (first[w.name].file, first[w.name].offset or 0))
    sizes = [w.nbytes + _ENTRY_BYTES + 2 * len(w.name.encode()) + 24 * len(w.shape) for w in in_file_order]
    groups = cut_evenly(sizes, limit - _HEADER_BYTES, min(_PARALLEL, sum(sizes) // _WORTH_SPLITTING))
    names = [f"{stem}-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    return [_new_shard(name, [in_file_order[i] for i in group]) for name, group in zip(names, groups, strict=True)]


def _new_shard(name: str, wanted: Iterable[WeightSpec]) -> Shard:
    weights = {w.name: w for w in wanted}
    layout = lay_out({w.name: (w.dtype, w.shape) for w in weights.values()})
    pieces = tuple(Piece(weights[each], entry.begin) for each, entry in layout.entries.items())
    return Shard(name=name, kept=None, header_bytes=len(layout.header), pieces=pieces, header=layout.header)


def _locations(shards: Iterable[Shard], wanted: Iterable[WeightSpec]) -> dict[str, WeightLocation]:
    at = {piece.weight.content: (shard.name, piece.offset) for shard in shards for piece in shard.pieces}
    return {w.name: WeightLocation(*at[w.content], w.nbytes, w.dtype, w.shape, w.quant) for w in wanted}


def cut_evenly(sizes: Sequence[int], most: int, least: int) -> list[range]:
    """Consecutive items in as few groups as `most` bytes a group allow, but `least` where there are as many items.

    Of the ways to do that, one whose largest group is smallest. An item of more than `most` has a group of its own.

    >>> cut_evenly([4, 4, 4, 4, 4], most=12, least=1)
    [range(0, 3), range(3, 5)]
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
