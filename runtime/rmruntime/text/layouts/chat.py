"""The conversation as it is: every message a turn of the template, the answer in the assistant's."""

from rmruntime.bundle.manifest import Format
from rmruntime.records import Message
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts.base import Layout, Turns


def check(form: Format) -> None:
    """This layout needs nothing of the format.

    >>> check(Format(layout="chat"))
    """


def lay_out(exchange: Exchange, form: Format) -> tuple[Turns, ...]:
    """The prompt's turns and the assistant's, if there is one: transformers scores open conversations too.

    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("4",))
    >>> [(turn.role, turn.content) for turn in lay_out(exchange, Format(layout="chat"))[0].messages]
    [('user', '2 + 2?'), ('assistant', '4')]
    """
    return (Turns((*exchange.prompt, *(Message("assistant", text) for text in exchange.answer))),)


LAYOUT = Layout(
    name="chat",
    units=("sequence",),
    check=check,
    lay_out=lay_out,
)
