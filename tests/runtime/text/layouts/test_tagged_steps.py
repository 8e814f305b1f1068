"""All steps in one assistant turn, a tag behind each: Qwen2.5-Math-PRM and math-shepherd."""

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
from rmruntime.text.tokenizer import Tokenizer
from text_formats import chat_format, classifier
from tiny_tokenizer import BOS, EOT, PAD, build_tokenizer

OPTIONS = ScoreOptions()
SHEPHERD = "{{ bos_token + messages[0]['content'] + ' ' + messages[1]['content'] }}"
SYSTEM = "Please reason step by step."
STEP = st.lists(st.sampled_from((" the", "\n", " ", "🙂", "+", "-", "a", ".")), max_size=6).map("".join)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def reference(tiny):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tiny.folder)


def process_model(tiny, tag, **changes):
    """A head that reads the last token of `tag`."""
    tokens = tuple(Tokenizer(tiny.folder).encode(tag).tolist())
    fields = {"layout": "tagged_steps", "unit": "step", "step_tag": tag, "step_separators": ("\n\n",)} | changes
    manifest = classifier(tiny, replace(chat_format(tiny), **fields))
    rules = {"step": PositionRule(rule="marker", tokens=tokens, text=tag)}
    return RequestTokenizer(replace(manifest, positions=rules), tiny.folder)


def encode(encoder, record, options=OPTIONS):
    [sequence] = encoder.encode(parse_record(record), options)
    return sequence


def tags(tokenizer, ids, tag):
    """Where the tag's last tokens stand."""
    tokens = tokenizer(tag, add_special_tokens=False)["input_ids"]
    return [end - 1 for end in range(len(ids) + 1) if ids[end - len(tokens) : end] == tokens]


@settings(max_examples=40)
@given(prompt=STEP, steps=st.lists(STEP, min_size=1, max_size=4))
def test_qwen_math_prm(prompt, steps, tiny, reference):
    """`"<extra_0>".join(steps) + "<extra_0>"` under a system prompt; no one spelled the tag, a special token."""
    turns = [("system", SYSTEM), ("user", prompt), ("assistant", PAD.join(steps) + PAD)]
    out = reference.apply_chat_template([{"role": role, "content": text} for role, text in turns], tokenize=True)
    ids = list(out if isinstance(out, list) else out["input_ids"])
    reads = tags(reference, ids, PAD)
    found = encode(process_model(tiny, PAD, system=SYSTEM), {"prompt": prompt, "steps": steps})
    assert found.ids.tolist() == ids and found.reads["step"].tolist() == reads
    assert len(reads) == len(steps) and not found.special_content


@settings(max_examples=40)
@given(prompt=STEP, steps=st.lists(STEP, min_size=1, max_size=4))
def test_math_shepherd(prompt, steps, tiny, reference):
    """The question and, behind a space, the steps, each with " ки" at its end, a line each."""
    (tiny.folder / "shepherd.jinja").write_text(SHEPHERD)
    content = "\n".join(f"{step} ки" for step in steps)
    ids = reference(f"{BOS}{prompt} {content}", add_special_tokens=False)["input_ids"]
    encoder = process_model(tiny, " ки", step_joiner="\n", template="shepherd.jinja")
    found = encode(encoder, {"prompt": prompt, "steps": steps})
    assert found.ids.tolist() == ids and found.reads["step"].tolist() == tags(reference, ids, " ки")


def test_trap_the_template_trims_an_empty_steps_tag(tiny):
    """ " ки" becomes "ки", other tokens: an error, not a score read elsewhere."""
    with pytest.raises(InputError, match="found no ' ки'"):
        encode(process_model(tiny, " ки"), {"prompt": "Q", "steps": [""]})


def test_a_plain_response_is_split(tiny):
    encoder = process_model(tiny, " ки", step_joiner="\n", step_separators=(" ки\n", "\n\n"), remove=(" ки",))
    whole = encode(encoder, {"prompt": "Q", "steps": ["a", "b"]})
    for response in ("a\n\nb", "a ки\nb ки", "a ки\nb"):
        assert encode(encoder, {"prompt": "Q", "response": response}).ids.tolist() == whole.ids.tolist()


def test_text_and_ids_have_as_many_reads_as_tags(tiny):
    encoder = process_model(tiny, PAD)
    assert encode(encoder, {"text": f"a{PAD}b{PAD}{PAD}"}).reads["step"].tolist() == [1, 3, 4]
    assert encode(encoder, {"input_ids": [1, tiny.pad_id, 2]}).reads["step"].tolist() == [1]
    with pytest.raises(InputError, match=r"found no '\[PAD\]' among the 1 tokens"):
        encode(encoder, {"text": "a"})


@pytest.mark.parametrize("tag", [PAD, " ки"])
def test_trap_content_spells_the_tag(tiny, tag):
    encoder = process_model(tiny, tag)
    with pytest.raises(InputError, match=r"^step 2 holds the tag .*take it out"):
        encode(encoder, {"prompt": "Q", "steps": ["a", f"b{tag}c"]})
    with pytest.raises(InputError, match=r"^the user's turn holds the tag"):
        encode(encoder, {"prompt": f"Q{tag}", "steps": ["a", "b"]})


def test_trap_the_template_makes_a_tag_of_content(tiny):
    """Found in the ids, though no text holds it: what the template writes between two texts."""
    (tiny.folder / "glue.jinja").write_text("{% for m in messages %}{{ m['content'] }} {% endfor %}")
    encoder = process_model(tiny, " ки", template="glue.jinja")
    with pytest.raises(InputError, match=r"found 2 place.*expected 1; does a message spell it"):
        encode(
            encoder, {"prompt": [{"role": "system", "content": "a"}, {"role": "user", "content": "ки"}], "steps": ["a"]}
        )


def test_the_tag_is_no_content_that_spells_a_special_token(tiny):
    encode(process_model(tiny, PAD), {"prompt": "Q", "steps": ["a"]}, ScoreOptions(strict_content=True))
    with pytest.raises(InputError, match=r"spells the special token\(s\) <\|eot_id"):
        encode(process_model(tiny, PAD), {"prompt": EOT, "steps": ["a"]}, ScoreOptions(strict_content=True))


def test_truncation_refuses_to_cut_a_tag(tiny):
    encoder, record = process_model(tiny, PAD), {"prompt": "Question", "steps": ["a", "b"]}
    whole = encode(encoder, record)
    with pytest.raises(InputError, match=r"cuts off '\[PAD\]', where step is read"):
        encode(encoder, record, ScoreOptions(truncate="right", max_length=len(whole.ids) - 2))
    cut = encode(encoder, record, ScoreOptions(truncate="left", max_length=len(whole.ids) - 3))
    assert (cut.reads["step"] == whole.reads["step"] - 3).all() and cut.truncated == 3


def test_what_it_needs(tiny):
    with pytest.raises(InputError, match="found the turns user; this model scores the steps of an answer"):
        encode(process_model(tiny, PAD), {"messages": [{"role": "user", "content": "a"}]})
    with pytest.raises(BundleError, match=r"format\.step_tag: found none"):
        find_layout(Format(layout="tagged_steps", unit="step"))
    with pytest.raises(BundleError, match="found 'sequence', but tagged_steps scores by step"):
        find_layout(Format(layout="tagged_steps", step_tag="a"))
