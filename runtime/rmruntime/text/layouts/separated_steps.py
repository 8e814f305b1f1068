"""Process reward models whose steps and separators are tokenized one by one; each separator's last token is scored.

TRL's PRMTrainer: the prompt's ids, then for every step its own ids and those of the separator (trl/experimental/prm/
prm_trainer.py). Skywork-o1-Open-PRM: the problem and a line end, then every step and the line end's token, which stands
alone where a step is empty (`prepare_input`; a copy is in search-and-learn, src/sal/models/skywork_o1_prm/io_utils.py).
"""

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts.base import Layout, Piece, Turns
from rmruntime.text.segments import Segment


def check(form: Format) -> None:
    """Raises BundleError for a format without a separator, or with ids that would follow the last one.

    >>> check(Format(layout="separated_steps", unit="step", step_separator="|"))
    """
    if not form.step_separator:
        raise BundleError("format.step_separator: found none, separated_steps needs one; export the bundle again")
    if form.append:
        raise BundleError("format.append: found ids, but separated_steps ends in a separator; export the bundle again")


def lay_out(exchange: Exchange, form: Format) -> tuple[Piece, ...]:
    """The prompt's turns, then a segment for each step and one for the separator after it.

    Raises InputError for a conversation without an answer.

    >>> from rmruntime.records import Message
    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("Add.", "4"))
    >>> form = Format(layout="separated_steps", unit="step", step_separator="|")
    >>> [segment.text for segment in lay_out(exchange, form)[1:]]
    ['Add.', '|', '4', '|']
    """
    if not exchange.answer:
        raise InputError(
            f"found the turns {', '.join(message.role for message in exchange.prompt)}; this model scores the steps of "
            "an answer: expected an assistant turn at the end, or steps"
        )
    separator = Segment(text=form.step_separator or "", ends_step=True)
    pieces = [piece for step in exchange.answer for piece in (Segment(text=step), separator)]
    return (Turns(exchange.prompt, form.generation_prompt), *pieces)


LAYOUT = Layout(
    name="separated_steps",
    units=("step",),
    check=check,
    lay_out=lay_out,
)
