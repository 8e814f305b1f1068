"""What an export says of any checkpoint, in the manifest and in `inspect`, however its graphs are made."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import get_args

from rmexport.checkpoint import TensorInfo, TokenizerFiles
from rmexport.errors import CheckpointError
from rmexport.options import Dtype, ExportOptions
from rmexport.prompt.recipe import Recipe
from rmruntime.bundle.manifest import Backbone, Format, Output, PositionRule, Quantization


@dataclass(frozen=True, kw_only=True)
class CheckpointSpec(ABC):
    """A checkpoint understood; `ModelSpec` and `EncoderSpec` add what their graphs are made from.

    `family_name`, `head_name` and `recipe` were chosen for it; `because` says why it is this family, head and format.
    """

    family_name: str
    head_name: str
    recipe: Recipe | None = None
    dtype: str
    backbone: Backbone
    format: Format
    tokenizer: TokenizerFiles
    because: Mapping[str, str]
    notes: tuple[str, ...]
    quantization: Quantization | None = None

    @property
    @abstractmethod
    def positions(self) -> Mapping[str, PositionRule]:
        """Where each role's tokens are."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[Output, ...]:
        """The outputs of every graph."""

    @property
    @abstractmethod
    def score(self) -> str | None:
        """The output that is the score, None where no single number is defined."""


def family_reason(model_type: str) -> str:
    """Why a checkpoint is of its family.

    >>> family_reason("llama")
    "config.json has model_type 'llama'"
    """
    return f"config.json has model_type {model_type!r}"


def choose_dtype(weights: Iterable[TensorInfo], options: ExportOptions) -> str:
    """The dtype asked for, or the one that holds most bytes of `weights` on disk: config.json may state it wrongly.

    Raises CheckpointError for weights in anything but floats.
    """
    held: Counter[str] = Counter()
    for info in weights:
        held[info.dtype] += info.nbytes
    storable = get_args(Dtype)
    if foreign := sorted(set(held) - set(storable)):
        raise CheckpointError(
            f"backbone weights are stored as {', '.join(foreign)}; expected {', '.join(storable)} "
            "(quantized checkpoints must be dequantized first)"
        )
    return options.dtype if options.dtype != "auto" else held.most_common(1)[0][0]
