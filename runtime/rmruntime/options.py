"""How to score, as one frozen value passed whole; and sizes as people write them: 5GB, 500MB, 2GiB."""

import re
from dataclasses import dataclass
from typing import Literal

from rmruntime.option_checks import TOKENS, check_fields

Aggregate = Literal["mean", "min", "last", "prod"]


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of `RewardModel.score` and `rmexport score`.

    `truncate` says which side loses tokens of an over-long sequence; None makes it an error. `max_length` lowers the
    bundle's own limit, in tokens. `aggregate` makes one value of step scores. `strict_content` refuses messages that
    spell a special token. `max_batch_tokens` bounds the tokens computed in one pass, after prefix sharing; None is the
    engine's own choice.
    """

    truncate: Literal["left", "right"] | None = None
    max_length: int | None = None
    aggregate: Aggregate = "mean"
    strict_content: bool = False
    max_batch_tokens: int | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        check_fields(self, {"max_length": TOKENS, "max_batch_tokens": TOKENS})


_UNITS = {"": 1, "B": 1} | {
    name: base**power
    for base, end in ((1000, "B"), (1024, "iB"))
    for power, letter in enumerate("KMGT", 1)
    for name in (f"{letter}{end}".upper(),)
}


def parse_bytes(text: str) -> int:
    """The number of bytes. Raises ValueError for anything that is no positive size."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * _UNITS.get(found[2].upper(), 0)) if found else 0
    if size <= 0:
        raise ValueError(f"{text!r} is no size; expected one like 5GB (10^9 bytes), 500MB or 2GiB (2^30 bytes)")
    return size


def shown_bytes(size: int) -> str:
    """A size for messages, in the unit that shows it: 12.3 GB, 2.1 MB, 400 bytes."""
    for unit, one in (("GB", 10**9), ("MB", 10**6)):
        if size >= one // 10:
            return f"{size / one:.1f} {unit}"
    return f"{size} bytes"
