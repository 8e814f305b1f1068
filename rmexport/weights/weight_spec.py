"""A weight on its way: asked for by a graph, specified, and located in a bundle."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from rmexport.checkpoint.derived_tensors import Derived, TensorAlias, sources_of
from rmexport.weights.quantization import Quantized
from rmexport.weights.safetensors_layout import byte_size
from rmruntime.bundle.manifest import FileRecord


@dataclass(frozen=True)
class WeightLocation:
    """Where a weight lies: `file` relative to the graph, `offset` and `nbytes` in bytes; `quant` if quantized."""

    file: str
    offset: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    quant: Quantized | None = None


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
class WeightSpec:
    """A weight of the bundle: what it is `made` of in the checkpoint, stored with this dtype and shape.

    `dtype` is bf16, fp16 or fp32, or the checkpoint tensor's own. `quant` where it is a part of a quantized matrix:
    dtype and shape are then the part's.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    made: Derived
    quant: Quantized | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The checkpoint tensors that it is made of."""
        return sources_of(self.made)

    @property
    def content(self) -> tuple[str, Derived, Quantized | None]:
        """What decides its bytes: weights of equal content, such as tied ones, are stored once."""
        return self.dtype, self.made, self.quant

    @property
    def is_whole(self) -> bool:
        """Whether it is one checkpoint tensor, all of it, though maybe in another dtype."""
        return isinstance(self.made, TensorAlias) and self.quant is None

    @property
    def nbytes(self) -> int:
        """Size in bytes, as it is stored."""
        return byte_size(self.dtype, self.shape)

    @property
    def elements(self) -> int:
        """Number of checkpoint elements that it is made of."""
        return prod(self.quant.shape if self.quant else self.shape)


@dataclass(frozen=True)
class StoredWeights:
    """Where every weight lies, the bundle's weight files, and the checkpoint's with the hashes learned on the way."""

    locations: Mapping[str, WeightLocation]
    files: tuple[FileRecord, ...]
    sources: tuple[FileRecord, ...]
