"""Generative graders that answer "+" or "-" to what the user shows them (RLHFlow's math ORM and PRM).

The first user turn is the prompt, `response_joiner` and the answer (or its first step), later steps are user turns of
their own, and each is followed by an assistant turn with the text `reply`; the head scores the token before each reply,
where the model predicts it. Source: RLHF-Reward-Modeling, math-rm/orm_evaluate.py and prm_evaluate.py.
"""

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.records import Message
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts.base import Layout, Turns


def check(form: Format) -> None:
    """Raises BundleError for a format without a reply.

    >>> check(Format(layout="graded_turns", reply="+"))
    """
    if form.reply is None:
        raise BundleError("format.reply: found none, graded_turns needs the grader's reply; export the bundle again")


def lay_out(exchange: Exchange, form: Format) -> tuple[Turns, ...]:
    """A user turn and a reply for every piece of the answer, after the system turn if there is one.

    Raises InputError unless the exchange is one user turn, optionally after a system turn, with an answer.

    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("Add.", "4"))
    >>> [turn.content for turn in lay_out(exchange, Format(layout="graded_turns", unit="step", reply="+"))[0].messages]
    ['2 + 2? Add.', '+', '4', '+']
    """
    roles = [message.role for message in exchange.prompt]
    if roles not in (["user"], ["system", "user"]) or not exchange.answer:
        found = roles + ["assistant"] * bool(exchange.answer)
        raise InputError(
            f"found the turns {', '.join(found)}; this model grades one answer to one question: "
            "expected an optional system turn, one user turn and one assistant turn"
        )
    question = exchange.prompt[-1].content + form.response_joiner + exchange.answer[0]
    graded = (question, *exchange.answer[1:])
    reply = Message("assistant", form.reply or "")
    turns = (turn for text in graded for turn in (Message("user", text), reply))
    return (Turns((*exchange.prompt[:-1], *turns)),)


LAYOUT = Layout(
    name="graded_turns",
    units=("sequence", "step"),
    check=check,
    lay_out=lay_out,
)
