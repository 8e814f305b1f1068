"""What is asked of the weight storage, and what it did."""

from collections.abc import Mapping
from dataclasses import dataclass

from rmexport.graph.writer import WeightLocation
from rmexport.quantization import Quantized
from rmruntime.manifest import FileRecord


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
