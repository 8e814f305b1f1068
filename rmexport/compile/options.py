"""What a user may choose for a compilation, as one frozen value."""

import re
from dataclasses import dataclass

from rmexport.errors import OptionError

TARGETS = ("tensorrt",)
LIBRARIES = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """Options of `rmexport compile`.

    `library` "auto" takes tensorrt where it is installed, else tensorrt_rtx. `compute_capability` ("8.9") is for
    tensorrt_rtx, which needs no GPU to compile for one; None: that of the GPU that is here. The engine's passes compute
    at most `max_batch_tokens`, of at most `max_sequences` sequences of at most `max_length` tokens each; None: as many
    tokens as the model and the device's memory allow.
    """

    target: str = "tensorrt"
    library: str = "auto"
    compute_capability: str | None = None
    max_batch_tokens: int = 16384
    max_length: int | None = None
    max_sequences: int = 512
    overwrite: bool = False

    def __post_init__(self) -> None:
        _check("target", self.target, TARGETS)
        _check("library", self.library, ("auto", *LIBRARIES))
        for name, least in (("max_batch_tokens", 16), ("max_length", 16), ("max_sequences", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise OptionError(f"{name} is {value}, expected at least {least}")
        if self.compute_capability is not None and not re.fullmatch(r"\d+\.\d", self.compute_capability):
            raise OptionError(f"compute_capability is {self.compute_capability!r}, expected one such as '8.9'")


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
