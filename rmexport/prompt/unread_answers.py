"""Notes on chat templates that leave out parts of answers, such as their reasoning: no score can depend on these.

The template is rendered with answers that contain each text by which it might split messages.
"""

from collections.abc import Collection, Iterator

from rmexport.prompt.template_probe import TemplateProbe
from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.records import Message
from rmruntime.text.exchanges import Exchange
from rmruntime.text.layouts import find_layout
from rmruntime.text.layouts.base import Layout, Turns

_FIRST, _MIDDLE, _LAST = "quietly-by-the-weir", "upstream-at-noon", "under-the-old-bridge"
# Where reasoning begins and ends, whatever the template says; its own texts come on top.
_PAIRS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<reasoning>", "</reasoning>"))
_MARKS = frozenset(mark for pair in _PAIRS for mark in pair)
_QUESTION = Message("user", "Where does the heron nest?")
_EARLIER = Message("user", "And the kingfisher?")


def unread_notes(text: TemplateProbe, form: Format) -> tuple[str, ...]:
    """The parts that the template leaves out of the judged answer and of earlier answers, one note each.

    >>> template = "{{ messages[-1]['content'].split('</think>')[-1] }}"
    >>> text = TemplateProbe(tokenizer_json=b"", template=template, variables={}, pinned_date="2024-07-26")
    >>> unread_notes(text, Format(layout="chat"))[0].partition(":")[0]
    'the chat template leaves out of the answer what stands in <think>...</think>'
    """
    if form.template is None or text.template is None:
        return ()
    try:
        layout = find_layout(form)
    except BundleError:  # a recipe whose unit its layout cannot score: what is wrong with it is told with its head
        return ()
    notes = []
    for where, earlier in (("the answer", False), ("earlier assistant turns", True)):
        lost = dict.fromkeys(_described(layout, form, text, earlier=earlier))
        if lost:
            notes.append(
                f"the chat template leaves out of {where} {' and '.join(lost)}: conversations that differ only there "
                "have one score"
            )
    return tuple(notes)


def _described(layout: Layout, form: Format, text: TemplateProbe, *, earlier: bool) -> Iterator[str]:
    """Every part of an answer that is not written, described for the note."""
    plain = f"{_FIRST} {_MIDDLE} {_LAST}"
    if not _written(layout, form, text, plain, earlier=earlier):
        return  # all of it is left out, or nothing can be said: other checks are about that
    pairs = [pair for pair in _PAIRS if pair[0] in (text.template or "") or pair[1] in (text.template or "")]
    told: set[str] = set()
    for begin, end in pairs or _PAIRS[:1]:
        kept = _written(layout, form, text, f"{begin}{_FIRST}{end}{_LAST}", earlier=earlier)
        if kept and _FIRST not in kept:
            told |= {begin, end}
            yield f"what stands in {begin}...{end}"
    for mark in text.literals():
        if _repeats(mark, told):
            continue
        kept = _written(layout, form, text, f"{_FIRST}{mark}{_LAST}", earlier=earlier)
        if kept and (_FIRST not in kept or _LAST not in kept):
            yield f"what stands {'before' if _FIRST not in kept else 'behind'} {mark!r}"


def _repeats(mark: str, told: Collection[str]) -> bool:
    """Whether a text says no more than the pairs do: it is one's mark, holds one that was `told`, or an empty pair."""
    pairs_in = any(begin in mark and end in mark for begin, end in _PAIRS)
    return mark in _MARKS or pairs_in or any(known in mark for known in told)


def _written(layout: Layout, form: Format, text: TemplateProbe, answer: str, *, earlier: bool) -> str:
    """Which of the probes are in the text of a conversation with `answer`; "" where it cannot be rendered."""
    prompt = (_QUESTION, Message("assistant", answer), _EARLIER) if earlier else (_QUESTION,)
    exchange = Exchange(prompt=prompt, answer=("It does.",) if earlier else (answer,), against="No.")
    try:
        pieces = layout.lay_out(exchange, form)
    except InputError:
        return ""
    parts = [
        text.rendered([turn.as_turn() for turn in piece.messages]) if isinstance(piece, Turns) else piece.text
        for piece in pieces
    ]
    whole = "".join(part or "" for part in parts)
    return " ".join(probe for probe in (_FIRST, _MIDDLE, _LAST) if probe in whole)
