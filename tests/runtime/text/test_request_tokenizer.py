"""The encoder against transformers and against the published scoring code of each format, token for token."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmruntime.bundle.manifest import PositionRule
from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer
from text_formats import chat_format, classifier, gated, grader
from tiny_tokenizer import BOS, EOS, EOT, SPECIALS, TEMPLATES, build_tokenizer

OPTIONS = ScoreOptions()
PIECES = (*SPECIALS, "<|user|>", "\n", "\n\n", " ", "  ", " the", "ки", "🙂", "+", "<|eot")
CONTENT = st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=5).map("".join)
PLAIN = st.lists(st.sampled_from((" the", "\n", " ", "ки", "🙂", "+", "-", "a")), max_size=6).map("".join)
QUICK = settings(max_examples=60)


@st.composite
def conversations(draw):
    system = [{"role": "system", "content": draw(CONTENT)}] if draw(st.booleans()) else []
    roles = ["user", "assistant"] * draw(st.integers(1, 3))
    return system + [{"role": role, "content": draw(CONTENT)} for role in roles]


@pytest.fixture(scope="module")
def tinies(tmp_path_factory):
    """A tokenizer folder per template; the one that reads the clock cannot be compared without pinning it."""
    return {name: build_tokenizer(tmp_path_factory.mktemp("tiny"), name) for name in TEMPLATES if name != "llama3.1"}


@pytest.fixture(scope="module")
def references(tinies):
    load = pytest.importorskip("transformers").AutoTokenizer.from_pretrained
    return {name: load(tiny.folder) for name, tiny in tinies.items()}


def reference_ids(tokenizer, messages):
    # transformers 4 returns a list of ids, 5 a BatchEncoding.
    out = tokenizer.apply_chat_template(messages, tokenize=True)
    return list(out if isinstance(out, list) else out["input_ids"])


def encode(encoder, record, options=OPTIONS):
    return encoder.encode(parse_record(record), options)


@pytest.mark.parametrize("name", ["llama3", "tulu"])
@QUICK
@given(messages=conversations())
def test_ids_are_those_of_apply_chat_template(name, messages, tinies, references):
    encoder = RequestTokenizer(classifier(tinies[name]), tinies[name].folder)
    [sequence] = encode(encoder, {"messages": messages})
    assert sequence.ids.tolist() == reference_ids(references[name], messages)
    spelled = any(text in message["content"] for message in messages for text in SPECIALS)
    assert sequence.special_content == spelled == bool(sequence.flags)


@pytest.mark.parametrize("name", ["llama3", "tulu"])
@QUICK
@given(messages=conversations())
def test_trap_double_bos(name, messages, tinies, references):
    """Policy "one" is MAHALO's and RLHFlow's code: delete every BOS text, let the tokenizer add its own."""
    tiny = tinies[name]
    form = replace(chat_format(tiny), bos="one")
    [sequence] = encode(RequestTokenizer(classifier(tiny, form), tiny.folder), {"messages": messages})
    text = references[name].apply_chat_template(messages, tokenize=False).replace(BOS, "")
    assert sequence.ids.tolist() == references[name](text)["input_ids"]
    assert (sequence.ids == tiny.bos_id).nonzero()[0].tolist() == [0]


@QUICK
@given(messages=conversations())
def test_zero_bos(messages, tinies, references):
    tiny = tinies["llama3"]
    form = replace(chat_format(tiny), bos="zero")
    [sequence] = encode(RequestTokenizer(classifier(tiny, form), tiny.folder), {"messages": messages})
    text = references["llama3"].apply_chat_template(messages, tokenize=False).replace(BOS, "")
    assert sequence.ids.tolist() == references["llama3"](text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("bos", ["as-is", "one", "zero"])
def test_rendered_text_gives_the_ids_of_its_messages(bos, tinies, references):
    tiny = tinies["llama3"]
    encoder = RequestTokenizer(classifier(tiny, replace(chat_format(tiny), bos=bos)), tiny.folder)
    messages = [{"role": "user", "content": f"a{BOS}"}, {"role": "assistant", "content": f"b{EOT}"}]
    text = references["llama3"].apply_chat_template(messages, tokenize=False)
    [rendered], [spoken] = encode(encoder, {"text": text}), encode(encoder, {"messages": messages})
    assert rendered.ids.tolist() == spoken.ids.tolist()
    assert not rendered.special_content and spoken.special_content


def test_bos_is_added_to_text_only_by_policy_one(tinies):
    tiny = tinies["llama3"]
    for bos, expected in (("as-is", []), ("zero", []), ("one", [tiny.bos_id])):
        encoder = RequestTokenizer(classifier(tiny, replace(chat_format(tiny), bos=bos)), tiny.folder)
        [sequence] = encode(encoder, {"text": "+"})
        assert sequence.ids.tolist() == [*expected, tiny.plus_id]
        [given_ids] = encode(encoder, {"input_ids": [3, tiny.bos_id]})
        assert given_ids.ids.tolist() == [3, tiny.bos_id]


def test_pinned_clock(tmp_path):
    tiny = build_tokenizer(tmp_path, "llama3.1")
    [sequence] = encode(RequestTokenizer(classifier(tiny), tiny.folder), {"prompt": "a", "response": "b"})
    [text] = encode(
        RequestTokenizer(classifier(tiny), tiny.folder),
        {
            "text": f"{BOS}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
            f"Today Date: 26 Jul 2024\n\n{EOT}<|start_header_id|>user<|end_header_id|>\n\na{EOT}"
            f"<|start_header_id|>assistant<|end_header_id|>\n\nb{EOT}"
        },
    )
    assert sequence.ids.tolist() == text.ids.tolist()


def test_trap_pad_is_eos(tmp_path):
    # TRL sets pad = eos where a checkpoint has no pad token; the token before the closing eos is then scored.
    tiny = build_tokenizer(tmp_path, "tulu", pad=EOS)
    encoder = RequestTokenizer(classifier(replace(tiny, pad_id=tiny.eos_id)), tiny.folder)
    [sequence] = encode(encoder, {"prompt": "a", "response": "b"})
    assert sequence.ids[-1] == tiny.eos_id
    assert sequence.reads["score"].tolist() == [len(sequence.ids) - 2]


def test_trap_first_pad_of_older_transformers(tmp_path):
    # transformers <= 4.48: `argmax(ids == pad) - 1`, with pad = eos the end of the first answer, whatever follows.
    tiny = build_tokenizer(tmp_path, "tulu", pad=EOS)
    rules = {"score": PositionRule(rule="before_first_pad", pad_id=tiny.eos_id)}
    encoder = RequestTokenizer(replace(classifier(tiny), positions=rules), tiny.folder)
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant") * 2]
    [sequence] = encode(encoder, {"messages": turns})
    assert sequence.reads["score"].tolist() == [int((sequence.ids == tiny.eos_id).argmax()) - 1]
    [open_turn] = encode(encoder, {"messages": turns[:1]})
    assert tiny.eos_id not in open_turn.ids and open_turn.reads["score"].tolist() == [len(open_turn.ids) - 1]


def published_gate(ids, pattern):
    """ArmoRM's search (RLHFlow, modeling_custom.py): from the right, the first token of the last occurrence."""
    for start in range(len(ids) - len(pattern), -1, -1):
        if ids[start : start + len(pattern)] == list(pattern):
            return start
    raise ValueError


@QUICK
@given(messages=conversations())
def test_gate_is_read_where_armorm_reads_it(messages, tinies):
    tiny = tinies["llama3"]
    [sequence] = encode(RequestTokenizer(gated(tiny), tiny.folder), {"messages": messages})
    ids = sequence.ids.tolist()
    assert sequence.reads["gate"].tolist() == [published_gate(ids, tiny.gate_pattern)]
    assert sequence.reads["score"].tolist() == [max(i for i, token in enumerate(ids) if token != tiny.pad_id)]


@QUICK
@given(prompt=PLAIN, answer=PLAIN)
def test_outcome_grader_is_read_three_before_the_end(prompt, answer, tinies, references):
    """RLHFlow's orm_evaluate.py: one user turn, " ки" deleted, logits of position -3."""
    tiny = tinies["llama3"]
    [sequence] = encode(RequestTokenizer(grader(tiny, "sequence"), tiny.folder), {"prompt": prompt, "response": answer})
    user = {"role": "user", "content": prompt + " " + answer.replace(" ки", "")}
    expected = reference_ids(references["llama3"], [user, {"role": "assistant", "content": "+"}])
    assert sequence.ids.tolist() == expected
    assert sequence.reads["reply"].tolist() == [len(expected) - 3]


@QUICK
@given(prompt=PLAIN, steps=st.lists(PLAIN, min_size=1, max_size=4))
def test_process_grader_reads_every_step_as_if_it_were_the_last(prompt, steps, tinies, references):
    """RLHFlow's prm_evaluate.py runs a conversation per step and takes position -3 of each; here it is one pass."""
    tiny = tinies["llama3"]
    [sequence] = encode(RequestTokenizer(grader(tiny, "step"), tiny.folder), {"prompt": prompt, "steps": steps})
    conversation, positions = [], []
    for text in (f"{prompt} {steps[0]}", *steps[1:]):
        conversation += [{"role": "user", "content": text}, {"role": "assistant", "content": "+"}]
        ids = reference_ids(references["llama3"], conversation)
        positions.append(len(ids) - 3)
        assert sequence.ids[: len(ids)].tolist() == ids
    assert len(sequence.ids) == len(ids)
    assert sequence.reads["reply"].tolist() == positions


def test_process_grader_splits_a_plain_response(tinies):
    encoder = RequestTokenizer(grader(tinies["llama3"], "step"), tinies["llama3"].folder)
    [split] = encode(encoder, {"prompt": "Q", "response": "Step 1: a ки\nStep 2: b ки\n"})
    [given_steps] = encode(encoder, {"prompt": "Q", "steps": ["Step 1: a", "Step 2: b"]})
    assert split.ids.tolist() == given_steps.ids.tolist() and len(split.reads["reply"]) == 2
    pair = encode(encoder, {"prompt": "Q", "chosen": "a\n\nb\n\nc", "rejected": "a"})
    assert [len(sequence.reads["reply"]) for sequence in pair] == [3, 1]


def test_graders_take_text_and_ids_that_hold_the_replies(tinies):
    tiny = tinies["llama3"]
    encoder = RequestTokenizer(grader(tiny, "step"), tiny.folder)
    [steps] = encode(encoder, {"prompt": "Q", "steps": ["a", "b"]})
    [ids] = encode(encoder, {"input_ids": steps.ids.tolist()})
    assert ids.reads["reply"].tolist() == steps.reads["reply"].tolist()


def test_steps_on_a_sequence_head_are_partial_answers(tinies):
    tiny = tinies["llama3"]
    encoder = RequestTokenizer(gated(tiny, replace(chat_format(tiny), step_joiner="\n")), tiny.folder)
    partial = encode(encoder, {"prompt": "Q", "steps": ["a", "b", "c"]})
    whole = encode(encoder, {"prompt": "Q", "responses": ["a", "a\nb", "a\nb\nc"]})
    assert [s.ids.tolist() for s in partial] == [s.ids.tolist() for s in whole]
    assert all(len(positions) == 1 for s in partial for positions in s.reads.values())


def test_number_and_order_of_sequences(tinies):
    encoder = RequestTokenizer(classifier(tinies["llama3"]), tinies["llama3"].folder)
    [a], [b] = (encode(encoder, {"prompt": "Q", "response": text}) for text in "ab")
    assert not a.truncated and not a.special_content and a.flags == ()
    for record in ({"responses": ["a", "b"]}, {"chosen": "a", "rejected": "b"}):
        first, second = encode(encoder, {"prompt": "Q"} | record)
        assert first.ids.tolist() == a.ids.tolist() and second.ids.tolist() == b.ids.tolist()


def test_open_conversations_are_scored_as_transformers_would(tinies, references):
    tiny, messages = tinies["llama3"], [{"role": "user", "content": "Hello"}]
    [sequence] = encode(RequestTokenizer(classifier(tiny), tiny.folder), {"messages": messages})
    assert sequence.ids.tolist() == reference_ids(references["llama3"], messages)
