"""Segments, the parts of a sequence that are tokenized by themselves, and the sequence that they make together.

Layouts write them, and RequestTokenizer tokenizes them.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from rmruntime.errors import InputError
from rmruntime.sequences import Ints
from rmruntime.text.positions import StepEnds
from rmruntime.text.truncation import Span

PLACEHOLDER = "\ue0d0\ue0d1\ue0d0"  # private characters, by which the place of a text in a rendered one is found


class Segment(NamedTuple):
    """A part of a sequence: `text`, tokenized by itself, or `ids` as they are (then `text` is not used).

    `token_type` is the type of its tokens, for encoders. Truncation takes nothing from a `fixed` segment, and where
    `loose` says so only tokens of these characters of the text, [start, stop). `ends_step` marks a segment that ends a
    step: its last token is scored.
    """

    text: str = ""
    ids: tuple[int, ...] | None = None
    token_type: int = 0
    fixed: bool = False
    ends_step: bool = False
    loose: Span | None = None


class JoinedSegments:
    """`segments` whose tokens are `parts` [L_i], one after the other, then `append` where they do not end in it.

    `ids` [L] are the tokens of all; the methods compute what most sequences do not need.

    >>> joined = JoinedSegments((Segment(text="a"), Segment(ids=(7,))), (np.array([4, 5]), np.array([7])), append=(2,))
    >>> joined.ids.tolist()
    [4, 5, 7, 2]
    """

    def __init__(self, segments: Sequence[Segment], parts: Sequence[Ints], append: tuple[int, ...] = ()) -> None:
        self._segments, self._parts, self._append = segments, parts, append
        ids = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if append and tuple(ids[-len(append) :].tolist()) != append:
            ids = np.concatenate((ids, np.array(append, dtype=np.int64)))
        self.ids: Ints = ids

    def types(self) -> Ints:
        """The token type of each of `ids`, [L]; `append` counts to the last segment."""
        found = np.repeat([segment.token_type for segment in self._segments], [len(part) for part in self._parts])
        return np.pad(found, (0, len(self.ids) - len(found)), constant_values=self._segments[-1].token_type)

    def step_ends(self) -> StepEnds | None:
        """First and last token of the segments that end steps, None without any.

        Raises InputError for one that has no token.
        """
        spans = [span for span, segment in zip(self._spans(), self._segments, strict=True) if segment.ends_step]
        if not spans:
            return None
        first, stop = np.array(spans, dtype=np.int64).T
        if np.any(first == stop):
            raise InputError(
                "the tokenizer makes no token of the step separator, so there is none to score; export the bundle again"
            )
        return StepEnds(first, stop - 1)

    def spare(self, *, keep_first: bool, offsets: Callable[[str], Sequence[Span]]) -> list[Span]:
        """Where truncation may take tokens: in segments that are not fixed, outside `append`, not the first if kept.

        `offsets` returns the characters of each of a text's tokens, for segments of which only some are loose.
        """
        limits = int(keep_first), len(self.ids) - len(self._append)
        loose = [
            span if segment.loose is None else _tokens_within(segment.loose, span, offsets(segment.text))
            for span, segment in zip(self._spans(), self._segments, strict=True)
            if not segment.fixed
        ]
        return [(max(start, limits[0]), min(stop, limits[1])) for start, stop in loose]

    def _spans(self) -> list[Span]:
        return list(pairwise(accumulate(map(len, self._parts), initial=0)))


def _tokens_within(characters: Span, span: Span, offsets: Sequence[Span]) -> Span:
    """The tokens of a segment at `span` that have only these `characters`; `offsets` are those of the text's tokens.

    A BOS in front that is no part of the text, or that was taken from it, moves the others.
    """
    shift = span[1] - len(offsets)
    inside = [i for i, (start, stop) in enumerate(offsets) if characters[0] <= start and stop <= characters[1]]
    return (shift + inside[0], shift + inside[-1] + 1) if inside else (span[0], span[0])
