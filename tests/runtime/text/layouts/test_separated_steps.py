"""Steps and separators tokenized one by one: TRL's PRMTrainer and Skywork-o1."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmruntime.bundle.manifest import Format, PositionRule
from rmruntime.errors import BundleError, InputError
from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.text.layouts import find_layout
from rmruntime.text.request_tokenizer import RequestTokenizer
from text_formats import chat_format, classifier
from tiny_tokenizer import BOS, EOT, build_tokenizer

OPTIONS = ScoreOptions()
PLAIN_PROMPT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PIECES = (" the", " ", "🙂", "+", "a", "an", "swer", " answer", "ки", EOT)
TEXT = st.lists(st.sampled_from(PIECES), max_size=5).map("".join)
STEPS = st.lists(TEXT, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The template writes the prompt and nothing else."""
    return build_tokenizer(tmp_path_factory.mktemp("plain"), chat_template=PLAIN_PROMPT)


@pytest.fixture(scope="module")
def reference(tiny):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tiny.folder)


def process_model(tiny, **changes):
    fields = {"layout": "separated_steps", "unit": "step", "step_separator": "\n", "step_separators": ("\n",)} | changes
    manifest = classifier(tiny, replace(chat_format(tiny), **fields), max_length=256)
    return RequestTokenizer(replace(manifest, positions={"step": PositionRule(rule="step_end")}), tiny.folder)


def encode(encoder, record, options=OPTIONS):
    [sequence] = encoder.encode(parse_record(record), options)
    return sequence


@settings(max_examples=40)
@given(prompt=TEXT, steps=STEPS, separator=st.sampled_from(("\n", "\n\n", " ки", "+-")))
def test_trl_prm_trainer(prompt, steps, separator, plain, reference):
    """Prompt, completions and separator each by itself, BOS in front; labels on the last token of a separator."""

    def alone(text):
        return reference(text, add_special_tokens=False)["input_ids"]

    ids, reads = [reference.bos_token_id, *alone(prompt)], []
    for step in steps:
        ids += alone(step) + alone(separator)
        reads.append(len(ids) - 1)
    encoder = process_model(plain, bos="one", step_separator=separator)
    found = encode(encoder, {"prompt": prompt, "steps": steps})
    assert found.ids.tolist() == ids and found.reads["step"].tolist() == reads


@settings(max_examples=40)
@given(problem=TEXT, steps=STEPS)
def test_skywork_o1(problem, steps, tiny, reference):
    """bos + problem + line end; every step by itself, then the line end's token, alone where the step is empty."""
    template = "{{ bos_token + messages[0]['content'] + '\\n' }}"
    (tiny.folder / "skywork.jinja").write_text(template)
    ids = reference(f"{BOS}{problem}\n", add_special_tokens=False)["input_ids"]
    reads, [line_end] = [], reference("\n", add_special_tokens=False)["input_ids"]
    for step in steps:
        ids += [*(reference(step, add_special_tokens=False)["input_ids"] if step else []), line_end]
        reads.append(len(ids) - 1)
    found = encode(process_model(tiny, template="skywork.jinja"), {"prompt": problem, "steps": steps})
    assert found.ids.tolist() == ids and found.reads["step"].tolist() == reads


def test_a_turn_of_the_assistant_may_be_opened(tiny, reference):
    turns = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    prompt = reference.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    expected = reference(prompt + "a\nb\n", add_special_tokens=False)["input_ids"]  # no merge crosses a line end here
    encoder = process_model(tiny, generation_prompt=True)
    assert encode(encoder, {"prompt": turns, "steps": ["a", "b"]}).ids.tolist() == expected
    assert len(encode(process_model(tiny), {"prompt": turns, "steps": ["a", "b"]}).ids) < len(expected)


def test_other_forms_of_records(tiny):
    encoder = process_model(tiny)
    steps = encode(encoder, {"prompt": "Q", "steps": ["a", "b"]})
    assert encode(encoder, {"prompt": "Q", "response": "a\nb\n"}).ids.tolist() == steps.ids.tolist()
    pair = encoder.encode(parse_record({"prompt": "Q", "chosen": "a\nb", "rejected": "c"}), OPTIONS)
    assert [len(sequence.reads["step"]) for sequence in pair] == [2, 1]
    for record in ({"text": "Q a\n"}, {"input_ids": [1, 2, 3]}):
        with pytest.raises(InputError, match="does not say where its steps end; give prompt and steps"):
            encode(encoder, record)
    with pytest.raises(InputError, match="found the turns user; this model scores the steps of an answer"):
        encode(encoder, {"messages": [{"role": "user", "content": "Q"}]})


def test_a_record_does_not_depend_on_those_it_is_tokenized_with(tiny):
    encoder = process_model(tiny)
    records = [{"prompt": "Q" * n, "steps": [" the answer" * m for m in range(n + 1)]} for n in range(5)]
    records.insert(2, {"text": "a"})
    outcomes = encoder.encode_many([parse_record(record) for record in records], OPTIONS)
    assert isinstance(outcomes.pop(2), InputError)
    del records[2]
    for record, (together,) in zip(records, outcomes, strict=True):
        alone = encode(encoder, record)
        assert together.ids.tolist() == alone.ids.tolist()
        assert together.reads["step"].tolist() == alone.reads["step"].tolist()


def test_content_that_holds_the_separator_is_no_step(tiny):
    found = encode(process_model(tiny), {"prompt": "Q\nQ", "steps": ["a\nb", "c"]})
    assert len(found.reads["step"]) == 2


def test_trap_truncation_cuts_off_a_separator(tiny):
    encoder = process_model(tiny, step_separator="+-")  # two tokens
    record = {"prompt": "Question", "steps": ["a", "bcd"]}
    whole = encode(encoder, record)
    first = int(whole.reads["step"][0])
    with pytest.raises(InputError, match="cuts off the end of a step, where step is read"):
        encode(encoder, record, ScoreOptions(truncate="right", max_length=len(whole.ids) - 1))
    kept = len(whole.ids) - (first - 1)
    cut = encode(encoder, record, ScoreOptions(truncate="left", max_length=kept + 1))
    assert cut.reads["step"].tolist() == (whole.reads["step"] - first + 2).tolist()
    with pytest.raises(InputError, match="cuts off the end of a step"):
        encode(encoder, record, ScoreOptions(truncate="left", max_length=kept - 2))


def test_what_it_needs(tiny):
    form = Format(layout="separated_steps", unit="step")
    with pytest.raises(BundleError, match=r"format\.step_separator: found none"):
        find_layout(form)
    with pytest.raises(BundleError, match=r"format\.append: found ids"):
        find_layout(replace(form, step_separator="\n", append=(1,)))
    chat = replace(classifier(tiny), positions={"step": PositionRule(rule="step_end")})
    with pytest.raises(BundleError, match=r"found the rule step_end, but format\.step_separator.* is absent"):
        RequestTokenizer(chat, tiny.folder)
