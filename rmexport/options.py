"""What a user may choose for an export, as one frozen value."""

from dataclasses import dataclass
from typing import Literal, get_args

from rmexport.errors import OptionError
from rmruntime.manifest import BosPolicy, Scheme

Dtype = Literal["bf16", "fp16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `rmexport export`.

    `dtype` "auto" keeps the dtype that holds most of the backbone's bytes on disk. `weights` "link" hard-links the
    source shards instead of copying them. `hash` computes content hashes even where no byte would be read.
    `quantize` stores the backbone's linear layers in 8 or 4 bits; `dtype` is then that of all else and the arithmetic.
    `bos`, `step_joiner` and `score_label` override what the checkpoint or its recipe says.
    """

    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    recipe: str | None = None
    revision: str | None = None
    weights: Literal["copy", "link"] = "copy"
    quantize: Scheme | None = None
    overwrite: bool = False
    hash: bool = False
    bos: BosPolicy | None = None
    step_joiner: str | None = None
    score_label: str | None = None
    pinned_date: str = "2024-07-26"

    def __post_init__(self) -> None:
        _check("dtype", self.dtype, ("auto", "bf16", "fp16", "fp32"))
        _check("weights", self.weights, ("copy", "link"))
        _check("quantize", self.quantize, (*get_args(Scheme), None))
        _check("bos", self.bos, ("one", "zero", "as-is", None))


def _check(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is {value!r}, expected one of {', '.join(str(c) for c in choices)}")
