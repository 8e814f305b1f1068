"""The parts that a layout makes of an exchange: turns for the template, and segments that are tokenized alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rmruntime.bundle.manifest import Format, Per
from rmruntime.records import Conversation, Message, Request
from rmruntime.scores import Score
from rmruntime.text.exchanges import Exchange
from rmruntime.text.segments import Segment


class Turns(NamedTuple):
    """Messages that the chat template renders into one text; `generation_prompt` then opens the assistant's turn."""

    messages: tuple[Message, ...]
    generation_prompt: bool = False


Piece = Turns | Segment


def given_whole(conversation: Conversation, form: Format) -> tuple[Segment, ...]:
    """A text or input_ids record as one segment: what most layouts do with them.

    >>> given_whole(Conversation(text="Hello"), Format(layout="chat"))[0].text
    'Hello'
    """
    return (Segment(text=conversation.text or "", ids=conversation.input_ids),)


def arrange_nothing(request: Request, exchanges: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
    """One sequence per exchange: all layouts but those that compare answers."""
    return exchanges


def join_nothing(request: Request, scores: list[Score]) -> list[Score]:
    """One score per sequence, unchanged."""
    return scores


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a layout's module states in its LAYOUT: its name in the manifest, `units` that it can score, and how.

    - `check(form)` raises BundleError for a format that lacks what the layout needs.
    - `lay_out(exchange, form)` returns the pieces of the sequence; raises InputError for an exchange that does not fit.
    - `given(conversation, form)` returns the segments of a text or input_ids record.
    - `arrange(request, exchanges)` returns the exchanges to lay out, one per sequence; `join(request, scores)` turns
      their scores into one per conversation of the request.
    """

    name: str
    units: tuple[Per, ...]
    check: Callable[[Format], None]
    lay_out: Callable[[Exchange, Format], tuple[Piece, ...]]
    given: Callable[[Conversation, Format], tuple[Segment, ...]] = given_whole
    arrange: Callable[[Request, tuple[Exchange, ...]], tuple[Exchange, ...]] = arrange_nothing
    join: Callable[[Request, list[Score]], list[Score]] = join_nothing
