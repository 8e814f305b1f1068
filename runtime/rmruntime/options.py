"""How to score, as one frozen value passed whole."""

from dataclasses import dataclass
from typing import Literal, get_args

from rmruntime.errors import OptionError

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
        """Raises OptionError for a value that is none of the choices or too small."""
        _check("truncate", self.truncate, self.truncate in (None, "left", "right"), "left, right or None")
        _check("aggregate", self.aggregate, self.aggregate in get_args(Aggregate), ", ".join(get_args(Aggregate)))
        budget = self.max_batch_tokens
        _check("max_batch_tokens", budget, budget is None or budget >= 1, "at least 1, or None")
        _check("max_length", self.max_length, self.max_length is None or self.max_length >= 1, "at least 1, or None")


def _check(name: str, value: object, good: bool, expected: str) -> None:
    if not good:
        raise OptionError(f"{name} is {value!r}, expected {expected}")
