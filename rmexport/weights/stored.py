"""What is asked of the weight storage, and what it did."""

from collections.abc import Mapping
from dataclasses import dataclass

from rmexport.weights.quantization import Quantized
from rmruntime.bundle.manifest import FileRecord


@dataclass(frozen=True)
class WeightLocation:
    """Where a weight lies: `file` relative to the graph, `offset` and `nbytes` in bytes; `quantized` where it is."""

    file: str
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    quantized: Quantized | None = None


@dataclass(frozen=True)
class WeightRequest:
    """A weight that a graph reads, with the shape that the config implies.

    `in_fp32`: read in fp32 (heads, final norm), so stored as the checkpoint has it whatever the bundle's dtype.
    `linear`: read as the matrix of a linear layer and as nothing else, so that it may be stored quantized.
    """

    name: str
    shape: tuple[int, ...]
    in_fp32: bool
    linear: bool = False


@dataclass(frozen=True)
class StoredTensor:
    """A weight of the bundle: checkpoint tensor `source`, all of it or only `rows` in this order, stored as `dtype`.

    `stack`, where given, are all the tensors, `source` the first, that are stacked along a new first axis. `shape` is
    that of the result. `dtype` is bf16, fp16 or fp32, or the source's own. `quantized` where it is a part of such a
    matrix: dtype and shape are then the part's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str
    rows: tuple[int, ...] | None = None
    stack: tuple[str, ...] = ()
    quantized: Quantized | None = None


@dataclass(frozen=True)
class StoredWeights:
    """Where every weight lies, the bundle's weight files, and the checkpoint's with the hashes learned on the way."""

    locations: Mapping[str, WeightLocation]
    files: tuple[FileRecord, ...]
    sources: tuple[FileRecord, ...]
