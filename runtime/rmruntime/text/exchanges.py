"""Takes requests apart into exchanges: a prompt, and its answer as one text or as steps. Layouts work on these.

So records do not depend on the model, and layouts do not depend on the form of a record.
"""

from dataclasses import dataclass, replace

from rmruntime.bundle.manifest import Format
from rmruntime.errors import InputError
from rmruntime.records import Message, Request


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The turns before the answer, and the answer: one text, or a text per step where steps are scored.

    `answer` is empty when the conversation does not end in an assistant's turn; `against` is the other answer where two
    are compared; `where` names the part of the record in messages, such as "chosen"; "" where it is all of it.
    `answer_name` is what messages call the answer.

    >>> exchange = Exchange(prompt=(Message("user", "2 + 2?"),), answer=("Add.", "4"))
    >>> len(exchange.answer), exchange.against
    (2, None)
    """

    prompt: tuple[Message, ...]
    answer: tuple[str, ...]
    against: str | None = None
    where: str = ""
    answer_name: str = "the assistant's turn"


def exchanges(request: Request, form: Format) -> tuple[Exchange, ...]:
    """The exchanges of `request`, whose conversations are messages; each makes one sequence.

    Where steps are given and the format scores sequences, there is one exchange per step: the answer up to that step,
    as if it were finished.

    >>> from rmruntime.records import parse_record
    >>> request = parse_record({"prompt": "2 + 2?", "steps": ["Add.", "4"]})
    >>> [exchange.answer for exchange in exchanges(request, Format(layout="chat", step_joiner=" "))]
    [('Add.',), ('Add. 4',)]
    """
    if request.kind == "steps":
        [conversation] = request.conversations
        prompt = _with_system(conversation.messages or (), form, request.instruction)
        answers = _step_answers(request.steps, form)
        return tuple(
            Exchange(prompt=prompt, answer=answer, where=_where(request, index, len(answers)))
            for index, answer in enumerate(answers)
        )
    conversations = request.conversations
    found = tuple(
        _exchange(conversation.messages or (), form, _where(request, index, len(conversations)), request.instruction)
        for index, conversation in enumerate(conversations)
    )
    if request.kind == "documents":
        return tuple(replace(exchange, answer_name="the document") for exchange in found)
    return found


def _step_answers(steps: tuple[str, ...], form: Format) -> list[tuple[str, ...]]:
    if form.unit == "step":
        return [tuple(_clean(step, form) for step in steps)]
    return [(_clean(form.step_joiner.join(steps[:count]), form),) for count in range(1, len(steps) + 1)]


def _exchange(messages: tuple[Message, ...], form: Format, where: str, instruction: str | None) -> Exchange:
    messages = _with_system(messages, form, instruction)
    if messages[-1].role != "assistant":
        return Exchange(prompt=messages, answer=(), where=where)
    response = messages[-1].content
    answer = split_steps(response, form) if form.unit == "step" else (_clean(response, form),)
    return Exchange(prompt=messages[:-1], answer=answer, where=where)


def _with_system(messages: tuple[Message, ...], form: Format, instruction: str | None) -> tuple[Message, ...]:
    if instruction is not None and form.takes_instruction:
        if messages[0].role == "system":
            raise InputError(
                "found an instruction and a system turn, which this model reads as its instruction: leave one out"
            )
        return (Message("system", instruction), *messages)
    if form.system is None or messages[0].role == "system":
        return messages
    return (Message("system", form.system), *messages)


def _where(request: Request, index: int, count: int) -> str:
    if count == 1:
        return ""
    if request.kind == "sets":
        return f"chosen[{index}]" if index < request.chosen else f"rejected[{index - request.chosen}]"
    names = {
        "pair": ("chosen", "rejected")[index % 2],
        "steps": f"the first {index + 1} step(s)",
        "documents": f"documents[{index}]",
    }
    return names.get(request.kind, f"responses[{index}]")


def split_steps(response: str, form: Format) -> tuple[str, ...]:
    """The steps of a plain response: split at the first of `form.step_separators` that occurs in it.

    Pieces are stripped and empty ones dropped; a response without a separator, or of separators only, is one step.
    The texts of `form.remove` are deleted from the pieces, not before the split, because a separator may contain one of
    them (RLHFlow's "ки\\n").

    >>> split_steps("Add. | Carry.", Format(layout="tagged_steps", unit="step", step_separators=(" | ",)))
    ('Add.', 'Carry.')
    """
    separator = next((text for text in form.step_separators if text in response), None)
    pieces = [response] if separator is None else response.split(separator)
    steps = tuple(filter(None, (_clean(piece, form).strip() for piece in pieces)))
    return steps or ("",)


def _clean(text: str, form: Format) -> str:
    for unwanted in form.remove:
        text = text.replace(unwanted, "")
    return text
