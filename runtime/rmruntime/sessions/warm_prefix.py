"""A beginning that stays in the prefix cache, such as a system prompt."""

import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rmruntime.batching.prefix_cache import PrefixCache
from rmruntime.errors import InputError, OptionError
from rmruntime.options import ScoreOptions, format_bytes
from rmruntime.records import Message, parse_record
from rmruntime.sequences import TokenSequence
from rmruntime.sessions.session_scorer import SessionScorer

ATTEMPTS = 3  # as others may have it forgotten between computing and pinning


class WarmPrefix:
    """Tokens that are computed, and stay in the prefix cache until `close`; from `RewardModel.warm`.

    A context manager; `tokens` are how many. Several of the same beginning each keep it.
    """

    def __init__(self, cache: PrefixCache, sequence: TokenSequence) -> None:
        """Of a beginning that was pinned."""
        self.tokens = len(sequence.ids)
        self._cache, self._ids = cache, sequence.ids
        self._lock, self._closed = threading.Lock(), False

    def close(self) -> None:
        """Let it be forgotten, once other tokens need the memory. Calling it again does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._cache.unpin(self._ids, self.tokens)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def warmed(
    scorer: SessionScorer, cache: PrefixCache | None, why_none: str, messages: str | Sequence[Mapping[str, str]]
) -> WarmPrefix:
    """Compute what conversations with these first messages begin with, and pin it.

    Raises OptionError without a cache (`why_none`), and where it is too small.
    """
    scorer.check_open()
    scorer.check_grows()
    if cache is None:
        raise OptionError(
            f"there is no prefix cache to keep anything in ({why_none or 'off'}): load the model with "
            'prefix_cache="auto" or a size'
        )
    sequence = scorer.common_beginning(_messages(messages), ScoreOptions())
    for _ in range(ATTEMPTS):
        scorer.compute(sequence, ScoreOptions())
        pinned = cache.pin(sequence.ids)
        if pinned == len(sequence.ids):
            return WarmPrefix(cache, sequence)
        cache.unpin(sequence.ids, pinned)
    raise OptionError(
        f"the prefix cache of {format_bytes(cache.limit)} has space for {pinned} of the {len(sequence.ids)} tokens, "
        "beside others that are to stay: load the model with more prefix_cache"
    )


def _messages(messages: str | Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    [conversation] = parse_record({"messages": given}).conversations
    if not conversation.messages:
        raise InputError("found no messages, expected at least one")
    return conversation.messages
