"""Conversations whose scores say less than they seem to carry a flag."""

from dataclasses import replace
from typing import Any

import pytest

from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.sequences import TokenSequence
from rmruntime.text.flags import ALIKE, SPELLED, SUMMARIES, UNANSWERED, UNWRITTEN, ZERO, kinds_of, zero_flags
from rmruntime.text.request_tokenizer import RequestTokenizer
from text_formats import chat_format, classifier, grader
from tiny_tokenizer import TinyTokenizer, build_tokenizer

THINKING = (
    "{{ bos_token }}{% for m in messages %}{% set c = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ c | trim }}<|eot_id|>{% endfor %}"
)
USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
A, B = "<think>two and two</think>4", "<think>nonsense</think>4"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyTokenizer:
    found = build_tokenizer(tmp_path_factory.mktemp("tiny"))
    (found.folder / "thinking.jinja").write_text(THINKING)
    return found


@pytest.fixture(scope="module")
def thinking(tiny: TinyTokenizer) -> RequestTokenizer:
    """A template that leaves reasoning out."""
    return RequestTokenizer(classifier(tiny, replace(chat_format(tiny), template="thinking.jinja")), tiny.folder)


@pytest.fixture(scope="module")
def plain(tiny: TinyTokenizer) -> RequestTokenizer:
    return RequestTokenizer(classifier(tiny), tiny.folder)


def encoded(encoder: RequestTokenizer, record: Any, **options: Any) -> tuple[TokenSequence, ...]:
    return encoder.encode(parse_record(record), ScoreOptions(**options))


def kinds(encoder: RequestTokenizer, record: Any, **options: Any) -> list[set[str]]:
    return [kinds_of(sequence.doubts) for sequence in encoded(encoder, record, **options)]


def test_answers_that_differ_only_in_what_the_template_drops(thinking: RequestTokenizer) -> None:
    flags = [s.doubts for s in encoded(thinking, {"prompt": "2+2?", "responses": [A, B, "5"]})]
    assert flags[2] == () and flags[0] == flags[1]
    assert "same tokens: responses[0] and responses[1] differ only in what is not read" in flags[0]
    pair = {"prompt": "2+2?", "chosen": A, "rejected": B}
    assert kinds(thinking, pair) == [{ALIKE, UNWRITTEN}] * 2


def test_earlier_turns_that_differ_only_in_what_the_template_drops(thinking: RequestTokenizer) -> None:
    turns = [[USER, {"role": "assistant", "content": text}, USER, ANSWER] for text in (A, B)]
    assert kinds(thinking, {"chosen": turns[0], "rejected": turns[1]}) == [{ALIKE}] * 2


def test_answers_that_differ_only_in_trimmed_space_or_behind_a_cut(plain: RequestTokenizer) -> None:
    assert kinds(plain, {"prompt": "a", "responses": ["b", "b "]}) == [{ALIKE}] * 2
    long = {"prompt": "a", "responses": ["b" * 60 + "c", "b" * 60 + "d"]}
    assert kinds(plain, long, truncate="right", max_length=40) == [{ALIKE}] * 2


def test_equal_answers_and_different_tokens_carry_no_flag(plain: RequestTokenizer) -> None:
    assert kinds(plain, {"prompt": "a", "responses": ["b", "b", "c"]}) == [set()] * 3


def test_an_answer_that_the_template_does_not_write_as_given(
    thinking: RequestTokenizer, plain: RequestTokenizer
) -> None:
    assert kinds(thinking, {"prompt": "2+2?", "response": A}) == [{UNWRITTEN}]
    assert kinds(plain, {"prompt": "2+2?", "response": A}) == [set()]
    assert kinds(thinking, {"prompt": "2+2?", "response": " 4\n"}) == [set()]  # trimmed, not dropped


@pytest.mark.parametrize(
    ("messages", "role"),
    [
        ([USER], "user"),
        ([USER, ANSWER, USER], "user"),
        ([{"role": "system", "content": "Be brief."}], "system"),
        ([USER, ANSWER, {"role": "tool", "content": "4"}], "tool"),
        ([{"role": "User", "content": "2+2?"}], "User"),
    ],
)
def test_conversations_without_an_answer(plain: RequestTokenizer, messages: list[Any], role: str) -> None:
    [sequence] = encoded(plain, {"messages": messages})
    assert sequence.doubts == (f"no answer to judge: the conversation ends in the {role}'s turn",)


def test_an_empty_answer_is_none(plain: RequestTokenizer) -> None:
    for response in ("", " \n"):
        assert kinds(plain, {"prompt": "a", "response": response}) == [{UNANSWERED}]


def test_no_flag_where_the_recipe_opens_the_reply(tiny: TinyTokenizer) -> None:
    encoder = RequestTokenizer(classifier(tiny, replace(chat_format(tiny), opens_reply=True)), tiny.folder)
    assert kinds(encoder, {"messages": [USER]}) == [set()]


def test_text_ids_answers_and_graded_steps_carry_none(plain: RequestTokenizer, tiny: TinyTokenizer) -> None:
    for record in ({"text": "a"}, {"input_ids": [5, 6]}, {"messages": [USER, ANSWER]}):
        assert kinds(plain, record) == [set()]
    steps = RequestTokenizer(grader(tiny, "step"), tiny.folder)
    assert kinds(steps, {"prompt": "a", "steps": ["b", "c"]}) == [set()]


def test_scores_of_exactly_0() -> None:
    assert zero_flags([0.5, -1e-30]) == ()
    [one], [steps] = zero_flags([0.0]), zero_flags([0.0, 1.0, -0.0])
    assert one.startswith("score of exactly 0.0, before") and "at 2 of 3 steps" in steps
    assert kinds_of([one, steps]) == {ZERO}


def test_every_kind_has_a_line_in_the_summary() -> None:
    assert {SPELLED, UNANSWERED, UNWRITTEN, ALIKE, ZERO} < set(SUMMARIES)
    assert kinds_of(["content spells <s>", "odd"]) == {SPELLED, ""}
