"""The conversation as it is: every message a turn of the template, the answer in the assistant's."""

from rmruntime.answers import Exchange
from rmruntime.manifest import Format, Per
from rmruntime.records import Message

LAYOUT = "chat"
UNITS: tuple[Per, ...] = ("sequence",)


def check(form: Format) -> None:
    """Any format will do."""


def lay_out(exchange: Exchange, form: Format) -> tuple[Message, ...]:
    """The prompt's turns and the assistant's, if there is one: transformers scores open conversations too."""
    return (*exchange.prompt, *(Message("assistant", text) for text in exchange.answer))
