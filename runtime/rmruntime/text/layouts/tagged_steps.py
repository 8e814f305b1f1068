"""Process reward models that score a tag after every step; all steps are in one assistant turn.

Qwen2.5-Math-PRM puts `<extra_0>` after each step (its model card); math-shepherd " ки" (its model card, and
search-and-learn, src/sal/models/reward_models.py). The position rule `marker` finds the tag's tokens.
"""

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.records import Message
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts.base import Layout, Turns


def check(form: Format) -> None:
    """Raises BundleError for a format without a tag.

    >>> check(Format(layout="tagged_steps"))
    Traceback (most recent call last):
    rmruntime.errors.BundleError: format.step_tag: found none, tagged_steps needs the steps' tag; export ...
    """
    if not form.step_tag:
        raise BundleError("format.step_tag: found none, tagged_steps needs the steps' tag; export the bundle again")


def lay_out(exchange: Exchange, form: Format) -> tuple[Turns, ...]:
    """The prompt's turns and an assistant turn of all the steps, each with the tag after it.

    Raises InputError for a conversation without an answer, and where a step or another turn holds the tag itself: it
    would be read there too.

    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("Add.", "4"))
    >>> form = Format(layout="tagged_steps", unit="step", step_tag="<step>", step_joiner=" ")
    >>> lay_out(exchange, form)[0].messages[-1].content
    'Add.<step> 4<step>'
    """
    tag = form.step_tag or ""
    if not exchange.answer:
        raise InputError(
            f"found the turns {', '.join(message.role for message in exchange.prompt)}; this model scores the steps of "
            "an answer: expected an assistant turn at the end, or steps"
        )
    texts = [(f"step {number}", step) for number, step in enumerate(exchange.answer, 1)]
    texts += [(f"the {message.role}'s turn", message.content) for message in exchange.prompt]
    for where, text in texts:
        if tag in text:
            raise InputError(
                f"{where} holds the tag {tag!r}, which this model reads after every step; take it out of there"
            )
    content = form.step_joiner.join(step + tag for step in exchange.answer)
    return (Turns((*exchange.prompt, Message("assistant", content))),)


LAYOUT = Layout(
    name="tagged_steps",
    units=("step",),
    check=check,
    lay_out=lay_out,
)
