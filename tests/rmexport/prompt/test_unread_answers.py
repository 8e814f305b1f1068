"""Export notes what a template leaves out of answers, and knows recipes that open the reply."""

import json
from pathlib import Path

import pytest

import tiny_tokenizer
from rmexport import ExportOptions, export
from rmexport.prompt.template_probe import TemplateProbe
from rmexport.prompt.unread_answers import unread_notes
from rmruntime import RewardModel, Score
from rmruntime.bundle.manifest import Format
from tiny_checkpoints import causal_lm
from tiny_tokenizer import TinyTokenizer, build_tokenizer

HEAD = "{{ bos_token }}{% for m in messages %}{% set c = m['content'] %}"
TAIL = "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ c | trim }}<|eot_id|>{% endfor %}"
SPLIT = "{% set c = c.split('</think>')[-1] %}{% endif %}"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyTokenizer:
    return build_tokenizer(tmp_path_factory.mktemp("tiny"))


def notes(tiny: TinyTokenizer, template: str) -> tuple[str, ...]:
    raw = (tiny.folder / "tokenizer.json").read_bytes()
    text = TemplateProbe(tokenizer_json=raw, template=template, variables=tiny.variables, pinned_date="2024-07-26")
    return unread_notes(text, Format(layout="chat"))


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        (
            "{% if '</think>' in c %}" + SPLIT,
            ["the answer what stands in <think>", "earlier assistant turns"],
        ),
        ("{% if '</think>' in c and not loop.last %}" + SPLIT, ["earlier assistant turns what stands in <think>"]),
        ("{% if 'x' %}{% set c = c.split('<|final|>')[-1] %}{% endif %}", ["before '<|final|>'", "before '<|final|>'"]),
        ("{% set c = c.split('###NOTES')[0] %}", ["behind '###NOTES'", "behind '###NOTES'"]),
        ("{% generation %}{% endgeneration %}{% set c = c.split('###NOTES')[0] %}", ["behind", "behind"]),
    ],
)
def test_a_note_says_what_is_left_out_and_where(tiny: TinyTokenizer, middle: str, words: list[str]) -> None:
    found = notes(tiny, HEAD + middle + TAIL)
    assert [word in note for note, word in zip(found, words, strict=True)] == [True] * len(words)


QWEN3 = (  # keeps the last answer's reasoning, and writes both marks itself
    HEAD
    + "{% set r = '' %}{% if '</think>' in c %}{% set r = c.split('</think>')[0].split('<think>')[-1] %}"
    + SPLIT
    + "{% if m['role'] == 'assistant' and loop.last %}"
    + "{% set c = '<think>\n\n</think>\n\n' + c if r == '' else '<think>\n' + r + '\n</think>\n\n' + c %}{% endif %}"
    + TAIL
)


def test_texts_with_the_marks_of_reasoning_say_no_more_than_the_marks(tiny: TinyTokenizer) -> None:
    """A template that writes an empty block, or line ends beside the marks, has one note: of the earlier turns."""
    [note] = notes(tiny, QWEN3)
    assert "out of earlier assistant turns what stands in <think>...</think>: " in note


def test_a_mark_with_line_ends_that_is_all_a_template_looks_for(tiny: TinyTokenizer) -> None:
    found = notes(tiny, HEAD + "{% set c = c.split('</think>\n\n')[-1] %}" + TAIL)
    assert ["before '</think>" in note for note in found] == [True, True]


@pytest.mark.parametrize("template", [tiny_tokenizer.LLAMA3, tiny_tokenizer.LLAMA31, tiny_tokenizer.TULU, HEAD + TAIL])
def test_templates_that_write_all_of_it_have_no_note(tiny: TinyTokenizer, template: str) -> None:
    assert notes(tiny, template) == ()


@pytest.mark.parametrize(
    ("fields", "flagged"),
    [
        ({"tokens": ["+", "-"]}, False),  # reads the reply that the model would give
        ({"token_ids": [5]}, True),
        ({"token_ids": [5], "template": "{% for m in messages %}[Q] {{ m['content'] }}\n{% endfor %}"}, True),
        (
            {"token_ids": [5], "template": "{% for m in messages %}{{ m['content'] + ' [/Q]' }}{% endfor %}"},
            False,
        ),
    ],
)
def test_a_recipe_that_opens_the_reply_judges_open_conversations(
    tmp_path: Path, fields: dict[str, object], flagged: bool
) -> None:
    recipe = {"name": "judge", "description": "d", "head": "token_logits"} | fields
    (tmp_path / "judge.json").write_text(json.dumps(recipe))
    checkpoint = str(causal_lm(tmp_path / "checkpoint").folder)
    export(checkpoint, tmp_path / "bundle", ExportOptions(recipe=str(tmp_path / "judge.json")))
    with RewardModel.load(tmp_path / "bundle", device="ort-cpu") as model:
        [score] = model.score([{"messages": [{"role": "user", "content": "a"}]}])
    assert isinstance(score, Score)
    assert any(flag.startswith("no answer to judge") for flag in score.flags) == flagged
