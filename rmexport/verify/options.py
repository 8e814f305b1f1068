"""What a user may choose for a verification, as one frozen value."""

from dataclasses import dataclass, field
from pathlib import Path

from rmexport.errors import OptionError
from rmexport.verify.quality import read_budget
from rmruntime.option_checks import TOKENS, Limit, check_fields
from rmruntime.options import EngineOptions, takes_engine_fields

CONVERSATIONS = Limit(1, 1_000_000, why="more than the built-in set has different ones")

REFERENCE = "reference"  # what a quantized bundle may be compared with where no engine runs the unquantized one


@takes_engine_fields(OptionError)
@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """`data` a file of records, else a built-in seeded set of `conversations`; `engine` as for scoring.

    `reference_device` is where torch computes the reference: cpu, cuda or cuda:N. `reference_cache` is the folder that
    keeps what it computed, "off" for none, None for the user's cache folder (`rmexport.verify.reference_cache`).

    For quantized bundles alone: `quality` is a level or a budget (`rmexport.verify.quality`), "normal" by default;
    `against` is the folder of the unquantized bundle, or "reference" for transformers in fp32, None for one that is
    exported meanwhile.
    """

    data: str | Path | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    conversations: int = 256
    recipe: str | None = None
    max_batch_tokens: int | None = None
    reference_device: str = "cpu"
    reference_cache: str | None = None
    quality: str | None = None
    against: str | None = None
    write: bool = True

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        limits = {"conversations": CONVERSATIONS, "max_batch_tokens": TOKENS}
        check_fields(self, limits, error=OptionError)
        read_budget(self.quality or "normal")
