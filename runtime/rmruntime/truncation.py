"""Cuts token sequences to a length limit, and tells where the tokens that are kept came from."""

from dataclasses import dataclass

import numpy as np

from rmruntime.errors import InputTooLong
from rmruntime.options import ScoreOptions
from rmruntime.sequences import Ints


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Keeps tokens [start, stop) of a sequence, after its first `head` tokens (the BOS that a left cut spares)."""

    start: int
    stop: int
    head: int = 0

    def keep(self, ids: Ints) -> Ints:
        """The tokens kept, [head + stop - start]."""
        body = ids[self.start : self.stop]
        return np.concatenate((ids[: self.head], body)) if self.head else body

    def holds(self, first: Ints, last: Ints) -> bool:
        """Whether every span [first, last] lies in the kept body."""
        return bool(np.all(first >= self.start) and np.all(last < self.stop))

    def shift(self, positions: Ints) -> Ints:
        """Where tokens of the kept body lie after the cut."""
        return positions - self.start + self.head


def plan_cut(length: int, limit: int, options: ScoreOptions, *, keep_first: bool) -> Cut:
    """The cut that brings `length` tokens down to `limit`; a left cut spares the first token if `keep_first`.

    Raises InputTooLong where options.truncate is None.
    """
    if options.truncate is None:
        raise InputTooLong(
            f"found {length} tokens, the limit is {limit}; shorten the conversation, or allow cutting with "
            "truncate='left' or 'right' (--truncate)"
        )
    if options.truncate == "right":
        return Cut(start=0, stop=limit)
    head = int(keep_first)
    return Cut(start=length - limit + head, stop=length, head=head)


def length_limit(options: ScoreOptions, max_length: int) -> int:
    """The smaller of the bundle's limit and options.max_length, in tokens."""
    return max_length if options.max_length is None else min(options.max_length, max_length)
