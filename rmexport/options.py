"""What a user may choose for an export, as one frozen value."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from rmexport.errors import OptionError
from rmruntime.bundle.manifest import BosPolicy, Scheme
from rmruntime.option_checks import Limit, check_fields
from rmruntime.options import parse_bytes

SMALLEST_SHARD = 1_000_000  # bytes; a smaller limit would give nearly every tensor a file of its own
STAGES = Limit(1, 10_000, why="more than any model has layers")
Dtype = Literal["bf16", "fp16", "fp32"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of `rmexport export`.

    `dtype` "auto" keeps the dtype that holds most of the backbone's bytes on disk. `weights` "link" hard-links the
    source shards instead of copying them. `hash` computes content hashes even where no byte would be read.
    `max_shard_size` ("5GB") bounds every file of weights, and without it new ones have at most 5 GB. `restart` does not
    continue an interrupted export to the same target.
    `quantize` stores the backbone's linear layers in 8 or 4 bits; `dtype` is then that of all else and the arithmetic.
    `bos`, `step_joiner` and `score_label` override what the checkpoint or its recipe says. `stages` also writes each
    graph in that number of parts, of about equally many layers, `stage_layers` ("0-39,40-79") in those named.
    """

    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    recipe: str | None = None
    revision: str | None = None
    weights: Literal["copy", "link"] = "copy"
    quantize: Scheme | None = None
    overwrite: bool = False
    hash: bool = False
    max_shard_size: str | None = None
    restart: bool = False
    bos: BosPolicy | None = None
    step_joiner: str | None = None
    score_label: str | None = None
    pinned_date: str = "2024-07-26"
    stages: int = 1
    stage_layers: str | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, out of range or malformed."""
        check_fields(self, {"stages": STAGES}, error=OptionError)
        _check_date(self.pinned_date)
        if self.stages > 1 and self.stage_layers is not None:
            raise OptionError("stages and stage_layers are two ways to say the same: leave one out")
        if self.max_shard_bytes is not None and self.max_shard_bytes < SMALLEST_SHARD:
            raise OptionError(f"max_shard_size is {self.max_shard_size}, expected {SMALLEST_SHARD:,} bytes or more")

    @property
    def max_shard_bytes(self) -> int | None:
        """`max_shard_size` as a number. Raises OptionError when it is none."""
        try:
            return None if self.max_shard_size is None else parse_bytes(self.max_shard_size)
        except ValueError as error:
            raise OptionError(f"max_shard_size: {error}") from error


def _check_date(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise OptionError(f"pinned_date is {text!r}, expected an ISO date such as 2024-07-26") from error
