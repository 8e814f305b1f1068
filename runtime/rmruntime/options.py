"""How to score, as one frozen value passed whole."""

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
