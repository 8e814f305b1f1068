"""Generative judges that read two answers and say which is better: pair-preference-model-LLaMA3-8B.

Both orders are scored, because the model is biased towards one place: P(i over j) = (s_ij + 1 - s_ji) / 2, where s_ij
is its probability that A is better when i is shown as A and j as B. Source: reward-bench,
rewardbench/models/slicpairpm.py. More than two answers are compared in pairs; an answer's score is the mean of its
probabilities.
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
    """Raises BundleError for a format without a template for the comparison, or with one that does not compile.

    >>> check(Format(layout="preference", preference_template="A: {{ a }} B: {{ b }}"))
    """
    if not form.preference_template:
        raise BundleError("format.preference_template: found none, preference needs one; export the bundle again")
    _comparison(form)


def arrange(request: Request, exchanges: tuple[Exchange, ...]) -> tuple[Exchange, ...]:
    """Every ordered pair of answers, the first of which is A: 2 for chosen and rejected, n * (n - 1) for n responses.

    Raises InputError for a record of one answer, of steps, or whose answers are not to the same prompt.

    >>> from rmruntime.records import parse_record
    >>> request = parse_record({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})
    >>> answers = [Exchange(prompt=(Message("user", "2 + 2?"),), answer=(text,)) for text in ("4", "5")]
    >>> [(pair.answer[0], pair.against) for pair in arrange(request, tuple(answers))]
    [('4', '5'), ('5', '4')]
    """
    if request.kind == "steps" or len(exchanges) < 2:
        found = "steps" if request.kind == "steps" else "one answer"
        raise InputError(
            f"found {found}; this model says which of two answers is better: give chosen and rejected, or responses "
            "with at least two"
        )
    if any(not exchange.answer or exchange.prompt != exchanges[0].prompt for exchange in exchanges):
        raise InputError(
            "found conversations that differ before their last assistant turn, expected answers to one prompt; "
            "give prompt and responses"
        )
    return tuple(
        Exchange(prompt=a.prompt, answer=a.answer, against=b.answer[0], where=f"{a.where} against {b.where}")
        for a, b in permutations(exchanges, 2)
    )


def lay_out(exchange: Exchange, form: Format) -> tuple[Turns, ...]:
    """One user turn, which shows the prompt and both answers.

    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("4",), against="5")
    >>> form = Format(layout="preference", preference_template="{{ messages[0].content }} A: {{ a }} B: {{ b }}")
    >>> lay_out(exchange, form)[0].messages[0].content
    '2 + 2? A: 4 B: 5'
    """
    answers = {"a": exchange.answer[0], "b": exchange.against or ""}
    content = _comparison(form).render([message.as_turn() for message in exchange.prompt], values=answers)
    return (Turns((Message("user", content),), form.generation_prompt),)


def join(request: Request, scores: list[Score]) -> list[Score]:
    """The score of each answer, from the scores of the ordered pairs; that of a lone text or input_ids stays as it is.

    `tokens` is the sum over the sequences that an answer was part of, `truncated` the largest of theirs.

    >>> from rmruntime.records import parse_record
    >>> request = parse_record({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"})
    >>> [score.value for score in join(request, [Score(value=0.75, tokens=20), Score(value=0.25, tokens=20)])]
    [0.75, 0.25]
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
    whole="this model says which of two answers is better, and has no score for one that grows",
    arrange=arrange,
    join=join,
)
