"""The conversation as it is: every message a turn of the template, the answer in the assistant's.

Guards and judges write a verdict on it. Their template, or a last user turn (`question`), asks for the verdict, the
assistant's turn is opened, and `reply` is what the verdict is made to begin with, up to the token that is scored.
"""

from rmruntime.bundle.manifest import Format
from rmruntime.errors import InputError
from rmruntime.records import Message
from rmruntime.text.chat_template import ChatTemplate
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts.base import Layout, Piece, Turns
from rmruntime.text.segments import Segment


def check(form: Format) -> None:
    """Raises BundleError for a question that does not compile.

    >>> check(Format(layout="chat"))
    """
    if form.question is not None:
        _question(form)


def lay_out(exchange: Exchange, form: Format) -> tuple[Piece, ...]:
    """The prompt's turns and the assistant's, if there is one: transformers scores open conversations too.

    Raises InputError for a conversation without an answer where a question is asked about it.

    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("4",))
    >>> [(turn.role, turn.content) for turn in lay_out(exchange, Format(layout="chat"))[0].messages]
    [('user', '2 + 2?'), ('assistant', '4')]
    """
    turns = (*exchange.prompt, *(Message("assistant", text) for text in exchange.answer))
    judged = len(turns) - 1
    if form.question is not None:
        turns = _asked(exchange, turns, form)
        judged = len(turns) - 2
    if not form.generation_prompt and form.reply is None:
        return (Turns(turns),)
    rendered = Turns(turns, form.generation_prompt, loose=judged)
    return (rendered,) if form.reply is None else (rendered, Segment(form.reply, fixed=True))


def _asked(exchange: Exchange, turns: tuple[Message, ...], form: Format) -> tuple[Message, ...]:
    """The turns without the system's, which is the instruction, and the question about the answer."""
    if not exchange.answer:
        raise InputError("found a conversation without an answer, which this model is asked about: add a response")
    instructed = turns[0].role == "system"
    instruction = turns[0].content if instructed else ""
    asked = _question(form).render([], values={"instruction": instruction})
    return (*turns[instructed:], Message("user", asked))


def _question(form: Format) -> ChatTemplate:
    # Compiled templates are kept by their source: this is cheap.
    return ChatTemplate(form.question or "", {}, None)


LAYOUT = Layout(
    name="chat",
    units=("sequence",),
    check=check,
    lay_out=lay_out,
)
