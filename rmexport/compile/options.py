"""The options of a compilation."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from rmexport.errors import OptionError
from rmruntime.option_checks import TOKENS, Limit, check_fields

Target = Literal["tensorrt"]
TARGETS: tuple[str, ...] = get_args(Target)
LIBRARIES = ("tensorrt", "tensorrt_rtx")
MOST_SEQUENCES = 1 << 20  # an engine's indices are 32 bits wide


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """Options of `rmexport compile`.

    `library` "auto" takes tensorrt where it is installed, else tensorrt_rtx. `compute_capability` ("8.9") is for
    tensorrt_rtx, which compiles without the GPU; None is that of this machine's GPU. A pass of the engine computes at
    most `max_batch_tokens` tokens of at most `max_sequences` sequences, each of at most `max_length` tokens; None is as
    many as the model and the GPU's memory allow. `overwrite` replaces an engine of the same name.

    >>> CompileOptions(compute_capability="sm89")
    Traceback (most recent call last):
    rmexport.errors.OptionError: compute_capability is 'sm89', expected one such as '8.9'
    """

    target: Target = "tensorrt"
    library: Literal["auto", "tensorrt", "tensorrt_rtx"] = "auto"
    compute_capability: str | None = None
    max_batch_tokens: int = 16384
    max_length: int | None = None
    max_sequences: int = 512
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        tokens = TOKENS._replace(least=16)
        limits = {"max_batch_tokens": tokens, "max_length": tokens, "max_sequences": Limit(1, MOST_SEQUENCES)}
        check_fields(self, limits, error=OptionError)
        if self.compute_capability is not None and not re.fullmatch(r"\d+\.\d", self.compute_capability):
            raise OptionError(f"compute_capability is {self.compute_capability!r}, expected one such as '8.9'")
