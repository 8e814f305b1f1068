"""The interface of layouts, and the pieces they return: turns for the chat template, and segments tokenized alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rmruntime.bundle.manifest import Format, Per
from rmruntime.records import Conversation, Message, Request
from rmruntime.scores import Score
from rmruntime.text.exchanges import Exchange
from rmruntime.text.segments import Segment


class Turns(NamedTuple):
    """Messages that the chat template renders into one text; with `generation_prompt` it opens an assistant's turn.

    `loose` is the index of the only message that truncation may shorten; None where it may take any of the text.
    """

    messages: tuple[Message, ...]
    generation_prompt: bool = False
    loose: int | None = None


Piece = Turns | Segment


def as_one_segment(conversation: Conversation, form: Format) -> tuple[Segment, ...]:
    """A text or input_ids record as one segment: the `given` of most layouts.

    >>> as_one_segment(Conversation(text="Hello"), Format(layout="chat"))[0].text
    'Hello'
    """
    return (Segment(text=conversation.text or "", ids=conversation.input_ids),)


def keep_exchanges(request: Request, exchanges: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
    """The exchanges unchanged, one sequence each: the `arrange` of layouts that do not compare answers.

    >>> keep_exchanges(Request(kind="single", conversations=()), ())
    ()
    """
    return exchanges


def keep_scores(request: Request, scores: list[Score]) -> list[Score]:
    """The scores unchanged, one per sequence: the `join` of layouts that do not compare answers.

    >>> [score.value for score in keep_scores(Request(kind="single", conversations=()), [Score(value=0.5, tokens=9)])]
    [0.5]
    """
    return scores


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A layout, as its module states it in LAYOUT: how a prompt and its answer become pieces of text.

    `name` is the manifest's word for it, `units` what it can score. `whole` says why an answer cannot be continued step
    by step, as a clause of a message; empty where it can.

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
    whole: str = ""
    given: Callable[[Conversation, Format], tuple[Segment, ...]] = as_one_segment
    arrange: Callable[[Request, tuple[Exchange, ...]], tuple[Exchange, ...]] = keep_exchanges
    join: Callable[[Request, list[Score]], list[Score]] = keep_scores
