"""Cuts token sequences to a length limit, and finds the positions of kept tokens after the cut."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmruntime.errors import InputTooLong
from rmruntime.options import ScoreOptions
from rmruntime.sequences import Ints

Span = tuple[int, int]  # [start, stop)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The tokens to take out of a sequence: non-empty spans [start, stop), ascending and apart.

    >>> cut = Cut(removed=((1, 3),))
    >>> cut.keep(np.array([10, 11, 12, 13])).tolist(), cut.shift(np.array([3])).tolist()
    ([10, 13], [1])
    """

    removed: tuple[Span, ...]

    def keep(self, ids: Ints) -> Ints:
        """The tokens kept, of [L] ids or of another array with one entry per token."""
        kept = np.ones(len(ids), dtype=np.bool_)
        for start, stop in self.removed:
            kept[start:stop] = False
        return ids[kept]

    def holds(self, first: Ints, last: Ints) -> bool:
        """Whether every token of every span [first, last] is kept."""
        return all(bool(np.all((last < start) | (first >= stop))) for start, stop in self.removed)

    def shift(self, positions: Ints) -> Ints:
        """Positions of kept tokens after the cut."""
        lost = [(positions >= stop) * (stop - start) for start, stop in self.removed]
        return positions - np.sum(lost, axis=0, dtype=np.int64)


def plan_cut(length: int, limit: int, options: ScoreOptions, spare: Sequence[Span]) -> Cut:
    """The cut that brings `length` tokens down to `limit`; only tokens in the spans `spare` may be removed.

    "right" takes from the end of the last span, and when that is used up from the end of the one before it; "left" from
    the beginning of the first span, then of the next. Raises InputTooLong where options.truncate is None, and where
    `spare` has too few tokens.

    >>> plan_cut(10, 7, ScoreOptions(truncate="left"), [(1, 9)])
    Cut(removed=((1, 4),))
    """
    if options.truncate is None:
        raise InputTooLong(
            f"found {length} tokens, the limit is {limit}; shorten the conversation, or allow cutting with "
            "truncate='left' or 'right' (--truncate)"
        )
    excess, right = length - limit, options.truncate == "right"
    removed: list[Span] = []
    for start, stop in sorted(spare, reverse=right):
        size = min(excess, stop - start)
        if size > 0:
            removed.append((stop - size, stop) if right else (start, start + size))
            excess -= size
    if excess > 0:
        raise InputTooLong(
            f"found {length} tokens, the limit is {limit}, and only {length - limit - excess} of them may be cut: the "
            "others are special tokens, or a query and its template, that this model needs; raise max_length "
            "(--max-length)"
        )
    return Cut(removed=tuple(sorted(removed)))


def length_limit(options: ScoreOptions, max_length: int) -> int:
    """The smaller of the bundle's limit and options.max_length, in tokens.

    >>> length_limit(ScoreOptions(max_length=512), 8192)
    512
    """
    return max_length if options.max_length is None else min(options.max_length, max_length)
