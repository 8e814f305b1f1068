"""Encoders that judge one answer to one question, as a pair of texts: `[CLS] question [SEP] answer [SEP]`.

Both texts are tokenized by themselves and set between ids of the format, as transformers' `tokenizer(question, answer)`
does (OpenAssistant's reward-model-deberta-v3 and other cross-encoders).
"""

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.records import Conversation
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts.base import Layout
from rmruntime.text.segments import Segment

_Ids = tuple[int, ...]


def check(form: Format) -> None:
    """Raises BundleError for wrong numbers of ids, types or prefixes, and for fields that a pair cannot use.

    >>> check(Format(layout="text_pair", pair_ids=((1,), (2,), (2,))))
    """
    for name, found, expected in (
        ("pair_ids", len(form.pair_ids), (3,)),
        ("pair_types", len(form.pair_types), (0, 5)),
        ("pair_prefixes", len(form.pair_prefixes), (2,)),
    ):
        if found not in expected:
            counts = " or ".join(map(str, expected))
            raise BundleError(
                f"format.{name}: found {found} of them, text_pair takes {counts}; export the bundle again"
            )
    if form.bos != "as-is" or form.text_bos or form.append or form.system is not None:
        raise BundleError(
            "format: found a bos policy, append or system, but text_pair has all its special tokens in pair_ids; "
            "export the bundle again"
        )


def lay_out(exchange: Exchange, form: Format) -> tuple[Segment, ...]:
    """The five segments of a pair; truncation takes tokens from the two texts only.

    Raises InputError unless the exchange is one user turn with an answer.

    >>> from rmruntime.records import Message
    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("4",))
    >>> form = Format(layout="text_pair", pair_ids=((1,), (2,), (2,)))
    >>> [segment.ids or segment.text for segment in lay_out(exchange, form)]
    [(1,), '2 + 2?', (2,), '4', (2,)]
    """
    roles = [message.role for message in exchange.prompt]
    if roles != ["user"] or not exchange.answer:
        found = roles + ["assistant"] * bool(exchange.answer)
        raise InputError(
            f"found the turns {', '.join(found)}; this model takes a pair of texts, a question and its answer: "
            "expected one user turn and one assistant turn"
        )
    question, answer = form.pair_prefixes
    texts = (Segment(text=question + exchange.prompt[0].content), Segment(text=answer + exchange.answer[0]))
    return _pair(form, *texts)


def given(conversation: Conversation, form: Format) -> tuple[Segment, ...]:
    """The segments of a text, between the first and last of `pair_ids`; or of ids, taken apart into two texts or one.

    Raises InputError for ids without these special tokens, where the types of their tokens depend on them.

    >>> form = Format(layout="text_pair", pair_ids=((1,), (2,), (2,)))
    >>> [segment.ids for segment in given(Conversation(input_ids=(1, 7, 2, 8, 2)), form)]
    [(1,), (7,), (2,), (8,), (2,)]
    """
    if conversation.input_ids is None:
        return _single(form, Segment(text=conversation.text or ""))
    ids, (first, middle, last) = conversation.input_ids, form.pair_ids
    body = ids[len(first) : len(ids) - len(last)]
    if (*first, *body, *last) == ids:
        place = _find(body, middle)
        if place is None:
            return _single(form, Segment(ids=body))
        return _pair(form, Segment(ids=body[:place]), Segment(ids=body[place + len(middle) :]))
    if len(set(form.pair_types)) > 1:
        raise InputError(
            f"input_ids: expected ids that begin with {list(first)} and end in {list(last)}, because the types of this "
            "model's tokens follow from that; give prompt and response"
        )
    return (Segment(ids=ids, token_type=form.pair_types[0] if form.pair_types else 0),)


def _pair(form: Format, question: Segment, answer: Segment) -> tuple[Segment, ...]:
    first, middle, last = (Segment(ids=ids, fixed=True) for ids in form.pair_ids)
    segments = (first, question, middle, answer, last)
    types = form.pair_types or (0,) * len(segments)
    return tuple(_typed(segment, kind) for segment, kind in zip(segments, types, strict=True))


def _single(form: Format, text: Segment) -> tuple[Segment, ...]:
    # A single text has the question's token type throughout, its last special token too.
    kinds = form.pair_types[:2] or (0, 0)
    first, last = (Segment(ids=form.pair_ids[place], fixed=True) for place in (0, 2))
    return _typed(first, kinds[0]), _typed(text, kinds[1]), _typed(last, kinds[1])


def _typed(segment: Segment, kind: int) -> Segment:
    return segment._replace(token_type=kind)


def _find(ids: _Ids, part: _Ids) -> int | None:
    places = (place for place in range(len(ids) - len(part) + 1) if ids[place : place + len(part)] == part)
    return next(places, None) if part else None


LAYOUT = Layout(
    name="text_pair",
    units=("sequence",),
    check=check,
    lay_out=lay_out,
    whole="this model reads a question and its answer as a pair of texts, each of them whole",
    given=given,
)
