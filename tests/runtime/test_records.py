"""Records: every kind, every way to write one wrong."""

import numpy as np
import pytest

from rmruntime.errors import RecordError
from rmruntime.records import Conversation, Message, Request, parse_record

USER, SYSTEM = Message("user", "Why?"), Message("system", "Be brief.")
TURNS = [{"role": "user", "content": "Why?"}]


def said(text: str) -> Message:
    return Message("assistant", text)


def of(*messages: Message) -> Conversation:
    return Conversation(messages=messages)


def turn(message: Message) -> dict[str, str]:
    return message.as_turn()


KINDS = [
    ({"messages": [*TURNS, {"role": "assistant", "content": "So."}]}, "single", [of(USER, said("So."))]),
    ({"messages": TURNS}, "single", [of(USER)]),
    ({"prompt": "Why?", "response": "So."}, "single", [of(USER, said("So."))]),
    ({"prompt": "Why?", "response": ""}, "single", [of(USER, said(""))]),
    ({"prompt": [turn(SYSTEM), turn(USER)], "response": "So."}, "single", [of(SYSTEM, USER, said("So."))]),
    ({"prompt": "Why?", "responses": ["a", "b"]}, "candidates", [of(USER, said("a")), of(USER, said("b"))]),
    ({"prompt": "Why?", "chosen": "a", "rejected": "b"}, "pair", [of(USER, said("a")), of(USER, said("b"))]),
    ({"text": "<|begin_of_text|>Hi"}, "single", [Conversation(text="<|begin_of_text|>Hi")]),
    ({"input_ids": [1, 2]}, "single", [Conversation(input_ids=(1, 2))]),
    ({"input_ids": np.array([1, 2])}, "single", [Conversation(input_ids=(1, 2))]),
]


@pytest.mark.parametrize(("record", "kind", "conversations"), KINDS)
def test_every_kind_of_record(record, kind, conversations):
    assert parse_record(record) == Request(kind=kind, conversations=tuple(conversations))


def test_steps_keep_prompt_and_steps_apart():
    request = parse_record({"prompt": "Why?", "steps": ["a", ""], "id": 7})
    assert request == Request(kind="steps", conversations=(of(USER),), steps=("a", ""), id=7)


@pytest.mark.parametrize(
    "record",
    [
        {"chosen": [turn(USER), turn(said("a"))], "rejected": [turn(USER), turn(said("b"))]},
        {"prompt": "Why?", "chosen": [turn(USER), turn(said("a"))], "rejected": [turn(USER), turn(said("b"))]},
        {"prompt": [turn(USER)], "chosen": [turn(USER), turn(said("a"))], "rejected": [turn(said("b"))]},
        {"prompt": " Why?\n", "chosen": [turn(USER), turn(said("a"))], "rejected": [turn(USER), turn(said("b"))]},
    ],
    ids=["no prompt", "prompt repeated", "turns after the prompt", "prompt differs in outer space"],
)
def test_pairs_as_preference_data_sets_have_them(record):
    assert parse_record(record).conversations == (of(USER, said("a")), of(USER, said("b")))


def test_prompt_messages_may_leave_out_the_system_turn_of_the_conversation():
    whole = [turn(SYSTEM), turn(USER), turn(said("a"))]
    request = parse_record({"prompt": [turn(USER)], "chosen": whole, "rejected": whole})
    assert request.conversations[0] == of(SYSTEM, USER, said("a"))


def test_content_parts_are_joined():
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    assert parse_record({"messages": [{"role": "user", "content": parts}]}).conversations == (of(USER),)


def test_null_counts_as_absent_and_data_set_columns_are_ignored():
    message = {"role": "user", "content": "Why?", "tool_calls": None}
    record = {"messages": [message], "prompt": None, "id": None, "metadata": {"a": 1}, "source": "x", "subset": "y"}
    assert parse_record(record) == Request(kind="single", conversations=(of(USER),))


WRONG = [
    ([1], "a record: found a list, expected an object"),
    ({}, "found the keys none, expected exactly one of"),
    ({"prompt": "a"}, "found the keys prompt, expected exactly one of"),
    ({"prompt": "a", "response": None}, "found the keys prompt, expected"),
    ({"prompt": "a", "response": "b", "messages": TURNS}, "found the keys prompt, response, messages"),
    ({"prompt": "a", "respnse": "b"}, "unknown key 'respnse'; did you mean response?"),
    ({"text": "a", "zzz": "b"}, "unknown key 'zzz'; expected only"),
    ({"text": "a", 3: "b"}, "unknown key 3"),
    ({"text": ""}, "text: found an empty string"),
    ({"text": 3}, r"text: found 3 \(int\), expected a string"),
    ({"text": "a\ud800"}, "half a surrogate pair .* at character 1"),
    ({"input_ids": []}, "input_ids: found an empty list"),
    ({"input_ids": "12"}, "input_ids: found '12' .*expected a list of token ids"),
    ({"input_ids": [1, 2.0]}, r"input_ids\[1\]: found 2.0 \(float\), expected an integer"),
    ({"input_ids": [True]}, r"input_ids\[0\]: found True \(bool\)"),
    ({"messages": []}, "messages: found an empty list"),
    ({"messages": "Why?"}, "messages: found 'Why\\?' .*expected a list of messages"),
    ({"messages": ["Why?"]}, r"messages\[0\]: found 'Why\?' .*expected an object with role and content"),
    ({"messages": [{"role": "user"}]}, r"messages\[0\]: found no content"),
    ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\]: found no content"),
    ({"messages": [{"rol": "user", "content": "a"}]}, "unknown key 'rol'; did you mean role"),
    ({"messages": [{"role": 1, "content": "a"}]}, r"messages\[0\].role: found 1"),
    ({"messages": [{"role": "", "content": "a"}]}, r"messages\[0\].role: found an empty string"),
    ({"messages": [{"role": "user", "content": 1}]}, r"content: found 1 \(int\), expected a string, or a list"),
    ({"messages": [{"role": "user", "content": []}]}, "content: found an empty list"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, r"content\[0\]: found a part of type 'a'"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "found a part of type 'image'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"content\[0\].text: found null"),
    ({"prompt": 3, "response": "a"}, "prompt: found 3"),
    ({"prompt": [turn(USER), turn(said("a"))], "response": "b"}, "prompt: found messages that end in an assistant"),
    ({"prompt": "a", "response": ["b"]}, "response: found a list, expected a string"),
    ({"prompt": "a", "responses": []}, "responses: found an empty list"),
    ({"prompt": "a", "responses": "b"}, "responses: found 'b' .*expected a list of strings"),
    ({"prompt": "a", "steps": []}, "steps: found an empty list"),
    ({"prompt": "a", "steps": ["b", 1]}, r"steps\[1\]: found 1"),
    ({"chosen": "a", "rejected": "b"}, "chosen: found text without a prompt"),
    ({"prompt": "How?", "chosen": TURNS, "rejected": TURNS}, "chosen: found a whole conversation without the prompt"),
    ({"prompt": "a", "chosen": {}, "rejected": "b"}, "chosen: found an object"),
    ({"text": "a", "id": 1.5}, r"id: found 1.5 \(float\), expected a string or an integer"),
    ({"text": "a", "id": True}, r"id: found True \(bool\)"),
    ({"text": "a", "id": "\udc00"}, "id: found half a surrogate pair"),
]


@pytest.mark.parametrize(("record", "message"), WRONG)
def test_what_is_wrong_is_named(record, message):
    with pytest.raises(RecordError, match=message):
        parse_record(record)


def test_long_values_are_cut_in_messages():
    with pytest.raises(RecordError) as caught:
        parse_record({"messages": "x" * 10_000})
    assert len(str(caught.value)) < 200
