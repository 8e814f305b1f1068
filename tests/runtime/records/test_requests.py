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
    ({"question": "a", "answer": "b"}, r"found the keys none \(others, which are ignored: question, answer\)"),
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
    ({"text": "a", "id": [1]}, r"id: found a list, expected a string, a finite number, or true or false"),
    ({"text": "a", "id": float("inf")}, r"id: found inf \(float\)"),
    ({"text": "a", "id": float("nan")}, r"id: found nan \(float\)"),
    ({"text": 10**5000}, r"text: found a huge int \(int\)"),
    ({"text": "a", "\ud800": 1}, "the key .* expected Unicode text"),
    ({"messages": [{"role": "\ud800", "content": "a"}]}, r"messages\[0\].role: found half a surrogate pair"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "content: found half a surrogate pair"),
    ({"prompt": "q", "chosen": [], "rejected": ["a"]}, "chosen: found an empty list"),
    ({"prompt": "q", "chosen": ["a", 3], "rejected": ["a"]}, r"chosen\[1\]: found 3"),
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


@pytest.mark.parametrize("identity", ["x", "", 7, -(2**70), 1.5, True, False, np.int64(3), np.float64(0.5)])
def test_ids_of_any_json_scalar_are_carried(identity):
    found = parse_record({"text": "a", "id": identity}).id
    assert found == identity and type(found) in (str, int, float, bool)


def test_other_keys_are_ignored():
    record = {"text": "a", "zzz": object(), 3: "b", "uid": 1, "score": 1e999, "chosen_model": "m", "step_count": 2}
    assert parse_record(record) == parse_record({"text": "a"})


MISTYPED = [
    ("respnse", "response"), ("repsonse", "response"), ("Prompt", "prompt"), ("PROMPT", "prompt"), ("promt", "prompt"),
    ("choosen", "chosen"), ("rejcted", "rejected"), ("mesages", "messages"), ("input-ids", "input_ids"),
    ("step", "steps"), ("txet", "text"), ("responsees", "responses"), ("chosen_", "chosen"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "meant"), MISTYPED)
def test_a_near_miss_of_a_known_key_is_an_error(key, meant):
    with pytest.raises(RecordError, match=f"unknown key '{key}'; did you mean {meant}\\?"):
        parse_record({"prompt": "a", "response": "b", key: "c"})
    assert parse_record({"prompt": "a", "response": "b", key: None}).kind == "single"


@pytest.mark.parametrize(
    "key", ["chosen_model", "rejected_model", "prompt_id", "score_chosen", "is_response", "response_0", "text-b", "id"]
)
def test_a_known_key_with_another_word_is_no_near_miss(key):
    assert parse_record({"text": "a", key: "c"}).kind == "single"
