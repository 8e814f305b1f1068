"""Streams weights from the checkpoint into one shard: read, check, convert, write, hash, a megabyte at a time."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmexport.checkpoint import Checkpoint
from rmexport.checkpoint.derived_tensors import Derived, TensorAlias, TensorStack
from rmexport.checkpoint.finite import FLOATS, Unstorable, fits
from rmexport.checkpoint.tensors import DTYPE_NAMES, NUMPY_DTYPES, Array
from rmexport.errors import CheckpointError
from rmexport.weights.hashed_file import HashedFile
from rmexport.weights.quantization import Quantized, choose_scales, encode
from rmexport.weights.shard_journal import Progress
from rmexport.weights.shard_plan import Piece, Shard
from rmexport.weights.weight_spec import WeightSpec
from rmruntime.bundle.bundle import file_sha256

# Bytes of a buffer: large enough that system calls do not show, small enough for second-level caches.
_CHUNK = 1 << 20


# Of matrices whose codes are written.
Scales = dict[tuple[Quantized, Derived], list[Array]]


class Stopped(Exception):
    """Another worker failed or the user interrupted; this one's work is void."""


@dataclass
class Monitor:
    """What the workers share: progress in bytes, values that cannot be stored, and whether to stop."""

    progress: Progress | None = None
    done: int = 0  # bytes; those of an earlier attempt to begin with
    total: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    unstorable: dict[tuple[str, str], Unstorable] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, count: int) -> None:
        """Say that `count` bytes are to come."""
        self.total = self.done + count
        if self.progress is not None:
            self.progress(self.done, self.total)

    def advance(self, count: int) -> None:
        """Report bytes done. Raises Stopped when there is no point in going on."""
        if self.stop.is_set():
            raise Stopped
        with self._lock:
            self.done += count
            if self.progress is not None:
                self.progress(self.done, self.total)

    def report(self, tensor: str, values: Array, target: str) -> None:
        """Count values of a chunk that dtype `target` cannot hold."""
        with self._lock:
            self.unstorable.setdefault((tensor, target), Unstorable()).add(values, target)


def stream_shard(checkpoint: Checkpoint, shard: Shard, path: Path | None, monitor: Monitor) -> str:
    """Write a shard to `path`, through to the disk, or only read it when that is None; returns its sha256.

    Raises CheckpointError and WriteError.
    """
    with HashedFile(path, _CHUNK) as file:
        file.write_bytes(_kept_header(checkpoint, shard) if shard.kept else shard.header)
        monitor.advance(shard.header_bytes)
        source = np.empty(_CHUNK, np.uint8)
        scales: Scales = {}
        for piece in shard.pieces:
            if piece.weight.quant:
                _stream_quantized(checkpoint, piece.weight, piece.weight.quant, scales, file, monitor)
            else:
                _stream_piece(checkpoint, piece, source, file, monitor)
        sha256 = file.sha256()
        file.sync()
        return sha256


def hash_file(path: Path, monitor: Monitor) -> str:
    """The sha256 of a file of the checkpoint. Raises CheckpointError.

    >>> _ = Path("vocab.txt").write_text("hello")
    >>> hash_file(Path("vocab.txt"), Monitor(None))[:12]
    '2cf24dba5fb0'
    """
    try:
        return file_sha256(path, monitor.advance)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _kept_header(checkpoint: Checkpoint, shard: Shard) -> bytes:
    path = checkpoint.folder / shard.name
    try:
        with path.open("rb") as file:
            return file.read(shard.header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def _stream_piece(
    checkpoint: Checkpoint, piece: Piece, scratch: NDArray[np.uint8], file: HashedFile, monitor: Monitor
) -> None:
    weight, source = piece.weight, checkpoint.tensors[piece.weight.sources[0]]
    source_dtype, target_dtype = NUMPY_DTYPES[source.dtype], NUMPY_DTYPES[weight.dtype]
    checked = piece.wanted and source.dtype in FLOATS
    step = _CHUNK // max(source_dtype.itemsize, target_dtype.itemsize)
    for start in range(0, weight.elements, step):
        count = min(step, weight.elements - start)
        buffer = file.buffer()
        # what needs no conversion is read to where it is written from
        values = _typed(buffer if source_dtype == target_dtype else scratch, source_dtype, count)
        _read(checkpoint, weight, start, values)
        if source_dtype != target_dtype:
            good = convert(values, _typed(buffer, target_dtype, count))
        else:
            good = not checked or fits(values, weight.dtype)
        if not good:
            monitor.report(source.name, values, weight.dtype)
        file.write(buffer, count * target_dtype.itemsize)
        monitor.advance(count * target_dtype.itemsize)


def _stream_quantized(
    checkpoint: Checkpoint, weight: WeightSpec, quant: Quantized, scales: Scales, file: HashedFile, monitor: Monitor
) -> None:
    """Codes, whose scales are kept in `scales` until their own piece comes; scales that are not there are made anew."""
    matrix = replace(quant, part="codes"), weight.made
    made = scales.pop(matrix, []) if quant.part == "scale" else []
    if made:
        for part in made:
            file.write_bytes(part.tobytes())
            monitor.advance(part.nbytes)
        return
    for rows in _matrix_rows(checkpoint, weight, quant, monitor):
        part = choose_scales(rows, quant)
        if quant.part == "codes":
            scales.setdefault(matrix, []).append(part)
            part = encode(rows, part, quant)
        file.write_bytes(part.tobytes())
        monitor.advance(part.nbytes)


def _matrix_rows(
    checkpoint: Checkpoint, weight: WeightSpec, quant: Quantized, monitor: Monitor
) -> Iterator[NDArray[np.float32]]:
    """The rows of a matrix in fp32, some at a time; values that are no numbers are reported, and 0 here."""
    source = checkpoint.tensors[weight.sources[0]]
    columns, source_dtype = quant.shape[1], NUMPY_DTYPES[source.dtype]
    step = max(1, _CHUNK // (4 * columns)) * columns
    for start in range(0, weight.elements, step):
        values = np.empty(min(step, weight.elements - start), source_dtype)
        _read(checkpoint, weight, start, values)
        wide = np.empty(values.size, np.float32)
        if not (fits(values, quant.scale_dtype) and convert(values, wide)):
            monitor.report(source.name, values, quant.scale_dtype)
            wide = np.zeros(values.size, np.float32)
        yield wide.reshape(-1, columns)


def _typed(buffer: NDArray[np.uint8], dtype: "np.dtype[Any]", count: int) -> Array:
    return buffer[: count * dtype.itemsize].view(dtype)


def _read(checkpoint: Checkpoint, weight: WeightSpec, start: int, out: Array) -> None:
    """Fill `out` with the weight's elements from `start` on; a weight made of parts is read part by part."""
    made = weight.made
    if isinstance(made, TensorAlias):
        checkpoint.read_into(made.source, start, out)
        return
    width = weight.elements // len(made.sources if isinstance(made, TensorStack) else made.rows)
    filled = 0
    while filled < out.size:
        part, column = divmod(start + filled, width)
        wanted = out.size - filled
        if isinstance(made, TensorStack):
            name, base, count = made.sources[part], 0, min(width - column, wanted)
        else:
            row, run = _run(made.rows, part, -(-(column + wanted) // width))
            name, base, count = made.source, row * width, min(run * width - column, wanted)
        checkpoint.read_into(name, base + column, out[filled : filled + count])
        filled += count


def _run(rows: Sequence[int], part: int, most: int) -> tuple[int, int]:
    """The row at `part`, and how many, up to `most`, follow one another from there: they are read at once."""
    run = 1
    while run < most and part + run < len(rows) and rows[part + run] == rows[part] + run:
        run += 1
    return rows[part], run


# Changes the dtype of weights, rounding to nearest even.
#
# The casts are ml_dtypes' and numpy's own. Integer arithmetic on whole blocks (bf16 to fp16 is a shift for all but
# subnormal numbers) was measured at 3 % less processor time for the whole copy, which is not worth its length.
def convert(source: Array, out: Array) -> bool:
    """Fill the flat array `out` with the values of `source`: non-empty, of one length, floating-point.

    Returns whether every value is finite and within the range of `out`; those beyond it become infinite.

    >>> half = np.empty(2, np.float16)
    >>> convert(np.array([1, 1e6], np.float32), half), half
    (False, array([ 1., inf], dtype=float16))
    """
    with np.errstate(all="ignore"):
        np.copyto(out, source, casting="unsafe")
    return fits(source, DTYPE_NAMES[out.dtype])
