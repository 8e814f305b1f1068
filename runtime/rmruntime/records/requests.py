"""Parses records, the JSON objects users write, into requests, the tokenizer's input.

A record is one of (any may carry "id", a string, a number, or true or false):
    {"messages": [{"role", "content"}, ...]}          {"text": "..."}          {"input_ids": [1, 2, ...]}
    {"prompt": "..." or messages, "response": "..."}
    {"prompt": "..." or messages, "responses": ["...", ...]}
    {"prompt": "..." or messages, "steps": ["...", ...]}
    {"prompt": "..." or messages, "chosen": ..., "rejected": ...}
    {"query": "...", "documents": [...], "instruction": "..."}
    {"query": "...", "document": ..., "instruction": "..."}

A query and its documents are a prompt and its responses by other names. A document is text, or an object with its
"text", whatever else it has; the instruction, which may be absent, becomes a system turn.

chosen and rejected are each an answer's text, or messages as preference data sets have them: the whole conversation
(then the prompt may be absent; where it is given, the conversation must begin with it) or only the turns after the
prompt. Either may be a list of such answers. A record with both may also have messages, which are ignored: data sets
repeat the chosen conversation there.

A record with a prompt, messages or chosen may have an "instruction" too, which models that take one read (a guard's
policy, a judge's principle); others ignore the column.

A key whose value is null counts as absent, because that is how a Parquet table writes an absent key. Other keys are
ignored, but a near miss of one of these is an error (keys.py). Content may be a list of text parts, which are joined
without a separator.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rmruntime.errors import RecordError
from rmruntime.records.keys import IGNORED_KEYS, KNOWN_KEYS, PLAIN_KEYS, QUERY_KEYS, check_key
from rmruntime.records.published_records import as_plain, python_value

__all__ = ["IGNORED_KEYS", "Conversation", "Identity", "Kind", "Message", "Request", "identity_of", "parse_record"]

Kind = Literal["single", "candidates", "documents", "pair", "sets", "steps"]
Identity = str | int | float
Document = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    >>> Message("user", "2 + 2?").as_turn()
    {'role': 'user', 'content': '2 + 2?'}
    """

    role: str
    content: str

    def as_turn(self) -> dict[str, str]:
        """The turn as chat templates read it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """One conversation to score, as messages, as rendered text, or as token ids (the other two are None).

    >>> Conversation(text="User: 2 + 2? Assistant: 4").messages is None
    True
    """

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    input_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A parsed record: the conversations to score, and how they belong together (`kind`).

    - "single": one conversation.
    - "candidates": one conversation per response, in their order; "documents": one per document of a query.
    - "pair": the chosen conversation, then the rejected one.
    - "sets": the chosen conversations, `chosen` of them, then the rejected ones.
    - "steps": the prompt alone; the answer's steps are in `steps`.

    `documents` are the documents of a query, or the responses, as they were given: text, or objects. `instruction` is
    that of a record with a prompt, or with messages: a policy or a principle, for models that take one.
    """

    kind: Kind
    conversations: tuple[Conversation, ...]
    steps: tuple[str, ...] = ()
    chosen: int = 0
    documents: tuple[Document, ...] = field(default=(), compare=False)  # said by the conversations too
    instruction: str | None = None
    id: Identity | None = None


def parse_record(data: object) -> Request:
    """A request from one parsed JSON object.

    Raises RecordError, which names the key, what was found there and what is expected.

    >>> request = parse_record({"prompt": "2 + 2?", "responses": ["4", "5"], "id": 7})
    >>> request.kind, request.id, len(request.conversations)
    ('candidates', 7, 2)
    """
    if not isinstance(data, Mapping):
        raise RecordError(f"a record: found {_found(data)}, expected an object such as {_shown(_EXAMPLE)}")
    given = {key: value for key, value in data.items() if value is not None and isinstance(key, str)}
    identity = _identity(given.pop("id", None))
    for key in given:
        check_key(key)
    known = {key: value for key, value in given.items() if key in KNOWN_KEYS}
    record = _plain(known)
    if not PLAIN_KEYS & record.keys():
        for key in given:
            check_key(key, QUERY_KEYS)
    build = _BUILDERS.get(frozenset(record))
    if build is None:
        expected = "; ".join(", ".join(keys) for keys in _FORMS)
        found = ", ".join(known) or "none"
        others = ", ".join(key for key in given if key not in known)
        ignored = f" (others, which are ignored: {others:.60})" if others else ""
        raise RecordError(f"the record: found the keys {found}{ignored}, expected exactly one of the sets: {expected}")
    parts = build(record)
    stated = given.get("instruction") if _PROMPTED & given.keys() else None
    return Request(
        kind=parts.kind,
        conversations=parts.conversations,
        steps=parts.steps,
        chosen=parts.chosen,
        documents=parts.documents,
        instruction=stated if isinstance(stated, str) and stated.strip() else None,
        id=identity,
    )


_PROMPTED = frozenset(("prompt", "messages", "chosen"))  # elsewhere a column `instruction` is itself the prompt


def identity_of(data: object) -> Identity | None:
    """The id in data that may not be a valid record; None where it has none, or one of a wrong type.

    >>> identity_of({"id": "a-1", "text": 5})
    'a-1'
    """
    try:
        return _identity(data.get("id")) if isinstance(data, Mapping) else None
    except RecordError:
        return None


def _plain(known: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record with plain keys only; which of them it has decides its kind."""
    record = {key: value for key, value in as_plain(known).items() if key in PLAIN_KEYS}
    if "chosen" in record and "rejected" in record:
        record.pop("messages", None)
    if ("query" in known and {"document", "documents"} & known.keys()) or not record:
        record |= {key: value for key, value in known.items() if key in QUERY_KEYS}
    return record


class _Parts(NamedTuple):
    kind: Kind
    conversations: tuple[Conversation, ...]
    steps: tuple[str, ...] = ()
    chosen: int = 0
    documents: tuple[Document, ...] = ()


_EXAMPLE = {"prompt": "...", "response": "..."}


def _from_messages(record: Mapping[str, Any]) -> _Parts:
    return _Parts("single", (Conversation(messages=_messages(record["messages"], "messages")),))


def _from_text(record: Mapping[str, Any]) -> _Parts:
    text = _text(record["text"], "text")
    if not text:
        raise RecordError("text: found an empty string, expected a rendered conversation")
    return _Parts("single", (Conversation(text=text),))


def _from_input_ids(record: Mapping[str, Any]) -> _Parts:
    items = _non_empty_list(record["input_ids"], "input_ids", "token ids")
    if not set(map(type, items)) <= {int}:
        index, wrong = next((i, item) for i, item in enumerate(items) if type(item) is not int)
        raise RecordError(f"input_ids[{index}]: found {_found(wrong)}, expected an integer")
    return _Parts("single", (Conversation(input_ids=tuple(items)),))


def _from_response(record: Mapping[str, Any]) -> _Parts:
    prompt = _open_prompt(record["prompt"])
    return _Parts("single", (_answered(prompt, _text(record["response"], "response")),))


def _from_responses(record: Mapping[str, Any]) -> _Parts:
    prompt, responses = _open_prompt(record["prompt"]), _texts(record["responses"], "responses")
    return _Parts("candidates", tuple(_answered(prompt, response) for response in responses), documents=responses)


def _from_documents(record: Mapping[str, Any]) -> _Parts:
    prompt, items = _query(record), _non_empty_list(record["documents"], "documents", "documents")
    texts = [_document_text(item, f"documents[{index}]") for index, item in enumerate(items)]
    return _Parts("documents", tuple(_answered(prompt, text) for text in texts), documents=tuple(items))


def _from_document(record: Mapping[str, Any]) -> _Parts:
    return _Parts("single", (_answered(_query(record), _document_text(record["document"], "document")),))


def _query(record: Mapping[str, Any]) -> tuple[Message, ...]:
    query = _text(record["query"], "query")
    if not query.strip():
        raise RecordError("query: found an empty text, expected what the documents are ranked for")
    instruction = _text(record.get("instruction", ""), "instruction")
    return (*([Message("system", instruction)] if instruction else []), Message("user", query))


def _document_text(document: object, where: str) -> str:
    if isinstance(document, str):
        return _text(document, where)
    if not isinstance(document, Mapping):
        raise RecordError(f"{where}: found {_found(document)}, expected a string, or an object with its text")
    if "text" not in document:
        raise RecordError(f"{where}: found an object without text, expected a string, or an object with its text")
    return _text(document["text"], f"{where}.text")


def _from_steps(record: Mapping[str, Any]) -> _Parts:
    prompt = _open_prompt(record["prompt"])
    return _Parts("steps", (Conversation(messages=prompt),), _texts(record["steps"], "steps"))


def _from_pair(record: Mapping[str, Any]) -> _Parts:
    prompt = record.get("prompt")
    if any(_is_set(record[key]) for key in ("chosen", "rejected")):
        chosen, rejected = (_answers(prompt, record[key], key) for key in ("chosen", "rejected"))
        return _Parts("sets", (*chosen, *rejected), chosen=len(chosen))
    return _Parts("pair", tuple(_preferred(prompt, record[key], key) for key in ("chosen", "rejected")))


def _is_set(answers: object) -> bool:
    """Whether this is a list of answers; a list of objects is one answer, the turns of a conversation."""
    items = python_value(answers)
    return isinstance(items, (list, tuple)) and len(items) > 0 and not isinstance(items[0], Mapping)


def _answers(prompt: object, answers: object, key: str) -> list[Conversation]:
    if not _is_set(answers):
        return [_preferred(prompt, answers, key)]
    items = _non_empty_list(answers, key, "answers")
    return [_preferred(prompt, item, f"{key}[{index}]") for index, item in enumerate(items)]


# The keys of each kind of record; the message for any other combination lists them in this order.
_FORMS: dict[tuple[str, ...], Callable[[Mapping[str, Any]], _Parts]] = {
    ("messages",): _from_messages,
    ("prompt", "response"): _from_response,
    ("prompt", "responses"): _from_responses,
    ("prompt", "chosen", "rejected"): _from_pair,
    ("chosen", "rejected"): _from_pair,
    ("prompt", "steps"): _from_steps,
    ("query", "documents"): _from_documents,
    ("query", "documents", "instruction"): _from_documents,
    ("query", "document"): _from_document,
    ("query", "document", "instruction"): _from_document,
    ("text",): _from_text,
    ("input_ids",): _from_input_ids,
}
_BUILDERS = {frozenset(keys): build for keys, build in _FORMS.items()}


def _preferred(prompt: object, answer: object, key: str) -> Conversation:
    if not isinstance(answer, str):
        return _preferred_turns(prompt, _messages(answer, key), key)
    if prompt is None:
        raise RecordError(f"{key}: found text without a prompt, expected a prompt, or {key} as a list of messages")
    return _answered(_open_prompt(prompt), _text(answer, key))


def _preferred_turns(prompt: object, turns: tuple[Message, ...], key: str) -> Conversation:
    if prompt is None:
        return Conversation(messages=turns)
    if turns[0].role == "assistant":
        return Conversation(messages=(*_open_prompt(prompt), *turns))
    if not _begins_with(turns, prompt):
        raise RecordError(
            f"{key}: found a whole conversation without the prompt in it; expected the turns after the prompt, or a "
            "conversation that holds it (or leave the prompt out)"
        )
    return Conversation(messages=turns)


def _begins_with(turns: tuple[Message, ...], prompt: object) -> bool:
    if isinstance(prompt, str):
        return any(turn.role == "user" and turn.content.strip() == prompt.strip() for turn in turns)
    given = _messages(prompt, "prompt")
    body = turns if given[0].role == "system" or turns[0].role != "system" else turns[1:]
    return body[: len(given)] == given


def _answered(prompt: tuple[Message, ...], response: str) -> Conversation:
    return Conversation(messages=(*prompt, Message("assistant", response)))


def _open_prompt(value: object) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", _text(value, "prompt")),)
    prompt = _messages(value, "prompt")
    if prompt[-1].role == "assistant":
        raise RecordError(
            "prompt: found messages that end in an assistant turn, expected a user's; "
            "write a finished conversation as messages"
        )
    return prompt


def _messages(value: object, where: str) -> tuple[Message, ...]:
    items = _non_empty_list(value, where, "messages")
    return tuple(_message(item, f"{where}[{index}]") for index, item in enumerate(items))


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise RecordError(f"{where}: found {_found(value)}, expected an object with role and content")
    given = {key: item for key, item in value.items() if item is not None}
    _refuse_unknown(given, {"role", "content"}, where)
    if missing := [key for key in ("role", "content") if key not in given]:
        raise RecordError(f"{where}: found no {' and no '.join(missing)}, expected both role and content")
    role = _text(given["role"], f"{where}.role")
    if not role:
        raise RecordError(f"{where}.role: found an empty string, expected a role such as user or assistant")
    return Message(role, _content(given["content"], f"{where}.content"))


def _content(value: object, where: str) -> str:
    if isinstance(value, str):
        return _text(value, where)
    parts = _non_empty_list(value, where, "a string, or a list of text parts")
    return "".join(_text_part(part, f"{where}[{index}]") for index, part in enumerate(parts))


def _text_part(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else part
    if not isinstance(part, Mapping) or kind != "text":
        raise RecordError(f'{where}: found a part of type {_found(kind)}, expected {{"type": "text", "text": ...}}')
    return _text(part.get("text"), f"{where}.text")


def _texts(value: object, where: str) -> tuple[str, ...]:
    items = _non_empty_list(value, where, "strings")
    return tuple(_text(item, f"{where}[{index}]") for index, item in enumerate(items))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{where}: found {_found(value)}, expected a string")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"{where}: found half a surrogate pair ({value[error.start]!a}) at character {error.start}, "
            "expected Unicode text; repair the data's escapes"
        ) from error
    return value


def _non_empty_list(value: object, where: str, of: str) -> Sequence[Any]:
    value = python_value(value)
    if not isinstance(value, (list, tuple)):
        raise RecordError(f"{where}: found {_found(value)}, expected {of if ',' in of else f'a list of {of}'}")
    if not value:
        raise RecordError(f"{where}: found an empty list, expected at least one item")
    return value


def _identity(value: object) -> Identity | None:
    value = python_value(value)
    if isinstance(value, str):
        return _text(value, "id")
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise RecordError(f"id: found {_found(value)}, expected a string, a finite number, or true or false")


def _refuse_unknown(given: Iterable[object], known: Collection[str], where: str) -> None:
    for key in given:
        if key not in known:
            names = sorted(known)
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected only {', '.join(names)}"
            raise RecordError(f"{where}: found the unknown key {_shown(key)}; {hint}")


def _found(value: object) -> str:
    names = {dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value)) or f"{_shown(value)} ({type(value).__name__})"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits, which Python does not print
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
