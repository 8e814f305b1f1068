"""Where the scoring loop draws from: requests that are ready, in windows that are planned and scored together.

`IterableSource` cuts an iterable into windows. A queue that concurrent callers fill would be a second source: its tags
would say whose each request is, and its windows would hold what waits at that moment.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from rmruntime.batching.prefetch import in_windows
from rmruntime.errors import InputError
from rmruntime.records import Request

Tag = TypeVar("Tag")
Tag_co = TypeVar("Tag_co", covariant=True)
Entry = tuple[Tag, Request | InputError]  # a tag of the source's own, and a request or why there is none


class RequestSource(Protocol[Tag_co]):
    """Returns windows of entries to one `RewardModel.stream_windows`."""

    def windows(self) -> Iterable[Sequence[Entry[Tag_co]] | None]:
        """Windows in the order in which their results are wanted. Drawn on the thread that draws the results.

        The loop asks for the next window before it scores this one. A source that would have to wait for it returns
        None first: the loop then scores all that it has, hands out the results, and asks again, when the source may
        wait. An error that is raised here comes after the results of all windows before it.
        """


class IterableSource(Generic[Tag]):
    """Windows of `rmruntime.batching.prefetch.RECORDS_AHEAD` entries; the last one is shorter.

    >>> from rmruntime.records import parse_record
    >>> [[(tag, request)]] = IterableSource([("first", parse_record({"text": "Hello"}))]).windows()
    >>> tag, request.kind
    ('first', 'single')
    """

    def __init__(self, entries: Iterable[Entry[Tag]]) -> None:
        self._entries = entries

    def windows(self) -> Sequence[list[Entry[Tag]]] | Iterator[list[Entry[Tag]]]:
        """A sequence where the entries are one, so that the loop knows when there is nothing to run ahead of."""
        return in_windows(self._entries)
