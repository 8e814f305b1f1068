"""Generative judges that read two answers and say which is better: pair-preference-model-LLaMA3-8B.

Both orders are asked, because the model prefers a place: P(i over j) = (s_ij + 1 - s_ji) / 2, where s_ij is its
probability that A is better when i stands as A and j as B. Source: reward-bench, rewardbench/models/slicpairpm.py. More
than two answers are compared each with each; the score of one is the mean of its probabilities.
"""

import math
from itertools import permutations

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.records import Message, Request
from rmruntime.scores import Score
from rmruntime.text.chat_template import ChatTemplate
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts.base import Layout, Turns


def check(form: Format) -> None:
    """Raises BundleError for a format without a template for the comparison, or with one that does not compile."""
    if not form.preference_template:
        raise BundleError("format.preference_template: found none, preference needs one; export the bundle again")
    _comparison(form)


def arrange(request: Request, exchanges: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
    """Every ordered pair of answers: 2 for chosen and rejected, n * (n - 1) for n responses, the first as A.

    Raises InputError for a record of one answer, of steps, or whose answers are not to the same prompt.
    """
    if request.kind == "steps" or len(exchanges) < 2:
        found = "steps" if request.kind == "steps" else "one answer"
        raise InputError(
            f"found {found}; this model says which of two answers is better: give chosen and rejected, or responses "
            "with at least two"
        )
    if any(not exchange.answer or exchange.prompt != exchanges[0].prompt for exchange in exchanges):
        raise InputError(
            "found conversations that differ before their last assistant turn, expected two answers to one prompt"
        )
    return tuple(
        Exchange(prompt=a.prompt, answer=a.answer, against=b.answer[0], where=f"{a.where} against {b.where}")
        for a, b in permutations(exchanges, 2)
    )


def lay_out(exchange: Exchange, form: Format) -> tuple[Turns, ...]:
    """One user turn, which shows the prompt and both answers."""
    answers = {"a": exchange.answer[0], "b": exchange.against or ""}
    content = _comparison(form).render([message.as_turn() for message in exchange.prompt], values=answers)
    return (Turns((Message("user", content),), form.generation_prompt),)


def join(request: Request, scores: list[Score]) -> list[Score]:
    """The score of each answer from those of the ordered pairs; a lone text or input_ids keeps its own, unaveraged.

    `tokens` are the sum over the sequences that an answer was part of, `truncated` their largest.
    """
    count = len(request.conversations)
    if count == 1:
        return scores
    compared = dict(zip(permutations(range(count), 2), scores, strict=True))
    return [_of_answer(i, count, compared) for i in range(count)]


def _of_answer(i: int, count: int, compared: dict[tuple[int, int], Score]) -> Score:
    others = [j for j in range(count) if j != i]
    both_orders = [(compared[i, j].value, compared[j, i].value) for j in others]
    chances = [(as_a + 1 - as_b) / 2 for as_a, as_b in both_orders if as_a is not None and as_b is not None]
    parts = [score for pair, score in compared.items() if i in pair]
    return Score(
        value=math.fsum(chances) / len(chances) if chances else None,
        tokens=sum(part.tokens for part in parts),
        truncated=max(part.truncated for part in parts),
        flags=tuple(dict.fromkeys(flag for part in parts for flag in part.flags)),
    )


def _comparison(form: Format) -> ChatTemplate:
    # Compiled templates are kept by their source: this is cheap.
    return ChatTemplate(form.preference_template or "", form.template_variables, form.pinned_date)


LAYOUT = Layout(
    name="preference",
    units=("sequence",),
    check=check,
    lay_out=lay_out,
    arrange=arrange,
    join=join,
)
