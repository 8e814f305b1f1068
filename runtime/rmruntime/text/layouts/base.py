"""What a layout makes of an exchange: turns for the template to render, and segments that are tokenized alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rmruntime.bundle.manifest import Format, Per
from rmruntime.records import Conversation, Message, Request
from rmruntime.scores import Score
from rmruntime.text.exchanges import Exchange
from rmruntime.text.segments import Segment


class Turns(NamedTuple):
    """Messages that the chat template renders into one text; `generation_prompt` opens the assistant's turn behind."""

    messages: tuple[Message, ...]
    generation_prompt: bool = False


Piece = Turns | Segment


def given_whole(conversation: Conversation, form: Format) -> tuple[Segment, ...]:
    """A text or input_ids record as one segment: what most layouts do with them."""
    return (Segment(text=conversation.text or "", ids=conversation.input_ids),)


def arrange_nothing(request: Request, exchanges: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
    """A sequence an exchange: all layouts but those that compare answers."""
    return exchanges


def join_nothing(request: Request, scores: list[Score]) -> list[Score]:
    """A score a sequence."""
    return scores


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout's module. `units` is what it can score; `check` and `lay_out` it must have, the rest it may leave out.

    - `check(form)` raises BundleError for a format that lacks what the layout needs.
    - `lay_out(exchange, form)` gives the pieces of the sequence; raises InputError where it has no place for one.
    - `given(conversation, form)` gives the segments of a text or input_ids record.
    - `arrange(request, exchanges)` gives the exchanges to lay out, a sequence each; `join(request, scores)` makes of
      their scores one for each conversation of the request.
    """

    name: str
    units: tuple[Per, ...]
    check: Callable[[Format], None]
    lay_out: Callable[[Exchange, Format], tuple[Piece, ...]]
    given: Callable[[Conversation, Format], tuple[Segment, ...]] = given_whole
    arrange: Callable[[Request, tuple[Exchange, ...]], tuple[Exchange, ...]] = arrange_nothing
    join: Callable[[Request, list[Score]], list[Score]] = join_nothing
