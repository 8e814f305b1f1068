"""Taking requests apart, and the layouts that put them together again."""

from dataclasses import replace

import pytest

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError, InputError
from rmruntime.records import Message, parse_record
from rmruntime.text.exchanges import Exchange, exchanges, split_steps
from rmruntime.text.layouts import chat, find_layout, graded_turns
from rmruntime.text.layouts.base import Turns

CHAT = Format(layout="chat", step_joiner="\n", remove=(" ки",))
PRM = Format(layout="graded_turns", unit="step", reply="+", step_separators=("ки\n", "\n\n"))
USER = Message("user", "Q")


def parts(record, form):
    return [exchange.answer for exchange in exchanges(parse_record(record), form)]


def test_answers_of_sequence_formats():
    assert parts({"prompt": "Q", "response": "a ки\nb"}, CHAT) == [("a\nb",)]
    assert parts({"prompt": "Q", "responses": ["a", " ки"]}, CHAT) == [("a",), ("",)]
    assert parts({"messages": [USER.as_turn()]}, CHAT) == [()]


def test_steps_on_a_sequence_format_are_partial_answers():
    assert parts({"prompt": "Q", "steps": ["a", "b ки", "c"]}, CHAT) == [("a",), ("a\nb",), ("a\nb\nc",)]


def test_steps_on_a_step_format_are_taken_as_given():
    form = replace(PRM, remove=(" ки",))
    assert parts({"prompt": "Q", "steps": ["a ки", "", " b "]}, form) == [("a", "", " b ")]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("one step", ("one step",)),
        ("a ки\n b\n\nc ки\n", ("a", "b\n\nc")),
        ("a\n\n\n\nb\n\n", ("a", "b")),
        ("\n\n", ("",)),
        ("", ("",)),
    ],
)
def test_plain_responses_are_split_into_steps(response, expected):
    assert split_steps(response, PRM) == expected


def test_removal_comes_after_splitting_because_a_separator_may_hold_it():
    assert split_steps("a ки\nb ки", replace(PRM, remove=(" ки",))) == ("a", "b")


def test_a_system_turn_is_put_in_front_where_there_is_none():
    form, own = replace(CHAT, system="Reason."), {"role": "system", "content": "S"}
    for record in ({"response": "a"}, {"responses": ["a", "b"]}, {"steps": ["a", "b"]}):
        for exchange in exchanges(parse_record({"prompt": "Q"} | record), form):
            assert exchange.prompt == (Message("system", "Reason."), USER)
    [given] = exchanges(parse_record({"messages": [own, USER.as_turn()]}), form)
    assert given.prompt == (Message("system", "S"), USER)
    [only_an_answer] = exchanges(parse_record({"messages": [{"role": "assistant", "content": "a"}]}), form)
    assert only_an_answer == Exchange(prompt=(Message("system", "Reason."),), answer=("a",))


def test_parts_of_a_record_are_named():
    for record, named in (
        ({"response": "a"}, [""]),
        ({"responses": ["a", "b"]}, ["responses[0]", "responses[1]"]),
        ({"responses": ["a"]}, [""]),
        ({"chosen": "a", "rejected": "b"}, ["chosen", "rejected"]),
        ({"steps": ["a", "b"]}, ["the first 1 step(s)", "the first 2 step(s)"]),
    ):
        found = exchanges(parse_record({"prompt": "Q"} | record), CHAT)
        assert [exchange.where for exchange in found] == named


def test_chat_keeps_every_turn():
    turns = (Message("system", "S"), USER, Message("assistant", "A"), USER)
    assert chat.lay_out(Exchange(prompt=turns, answer=("B",)), CHAT) == (Turns((*turns, Message("assistant", "B"))),)
    assert chat.lay_out(Exchange(prompt=turns, answer=()), CHAT) == (Turns(turns),)


def test_graded_turns_put_a_reply_after_every_step():
    system, plus = Message("system", "S"), Message("assistant", "+")
    laid = graded_turns.lay_out(Exchange(prompt=(system, USER), answer=("a", "b")), PRM)
    assert laid == (Turns((system, Message("user", "Q a"), plus, Message("user", "b"), plus)),)


@pytest.mark.parametrize(
    ("prompt", "answer", "found"),
    [
        ((USER, Message("assistant", "x"), USER), ("a",), "user, assistant, user, assistant"),
        ((USER,), (), "found the turns user;"),
        ((Message("system", "S"),), ("a",), "system, assistant"),
        ((Message("human", "Q"),), ("a",), "human, assistant"),
    ],
)
def test_graded_turns_grade_one_answer_to_one_question(prompt, answer, found):
    with pytest.raises(InputError, match=f"{found}.*expected an optional system turn, one user turn and one assistant"):
        graded_turns.lay_out(Exchange(prompt=prompt, answer=answer), PRM)


def test_layouts_are_found_by_name():
    assert find_layout(CHAT).lay_out is chat.lay_out and find_layout(PRM).name == "graded_turns"
    with pytest.raises(BundleError, match="found 'pairs', expected one of chat, graded_turns, preference, "):
        find_layout(replace(CHAT, layout="pairs"))  # type: ignore[arg-type] # a manifest of a later version
    with pytest.raises(BundleError, match="found 'step', but chat scores by sequence"):
        find_layout(replace(CHAT, unit="step"))
    with pytest.raises(BundleError, match=r"format\.reply: found none"):
        find_layout(replace(PRM, reply=None))
