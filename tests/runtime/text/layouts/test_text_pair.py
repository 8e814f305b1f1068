"""Question and answer as an encoder's pair of texts, against the post-processor of the tokenizers library."""

from dataclasses import replace

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from rmruntime.bundle.manifest import Format, Graph, PositionRule
from rmruntime.errors import BundleError, InputError, InputTooLong
from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.text.layouts import find_layout
from rmruntime.text.request_tokenizer import RequestTokenizer
from text_formats import chat_format, classifier
from tiny_tokenizer import BOS, EOS, EOT, build_tokenizer

OPTIONS = ScoreOptions()
CLS, SEP = BOS, EOS  # the tiny tokenizer's names for them
TEXT = st.lists(st.sampled_from((" the", "\n", " ", "🙂", "+", "ing", EOT)), max_size=8).map("".join)
WORD = st.sampled_from(("a", "Hello", " the", "1"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module", params=["bert", "roberta"])
def pair(request, tiny):
    """The library's own pairs, and the encoder that is to make the same: with types, or two separators and no types."""
    middle, kind = (SEP, 1) if request.param == "bert" else (f"{SEP} {SEP}", 0)
    library = tokenizers.Tokenizer.from_file(str(tiny.folder / "tokenizer.json"))
    library.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {middle} $B:{kind} {SEP}:{kind}",
        special_tokens=[(CLS, tiny.bos_id), (SEP, tiny.eos_id)],
    )
    ids = ((tiny.bos_id,), (tiny.eos_id,) * (1 if kind else 2), (tiny.eos_id,))
    return library, cross_encoder(tiny, pair_ids=ids, pair_types=(0, 0, 0, 1, 1) if kind else ())


def cross_encoder(tiny, **changes):
    fields = {"layout": "text_pair", "template": None} | changes
    form = replace(chat_format(tiny), **fields)
    manifest = classifier(tiny, form)
    last = replace(manifest.positions["score"], rule="last")  # any rule that always finds one
    return RequestTokenizer(replace(manifest, positions={"score": last}), tiny.folder)


def encode(encoder, record, options=OPTIONS):
    [sequence] = encoder.encode(parse_record(record), options)
    return sequence


def types_of(sequence):
    return None if sequence.types is None else sequence.types.tolist()


def same(sequence, encoding, encoder):
    typed = bool(encoder._form.pair_types)
    return (sequence.ids.tolist(), types_of(sequence)) == (encoding.ids, encoding.type_ids if typed else None)


@settings(max_examples=60)
@given(question=TEXT, answer=TEXT)
def test_pairs_are_those_of_the_tokenizers_library(question, answer, pair):
    library, encoder = pair
    found = encode(encoder, {"prompt": question, "response": answer})
    assert same(found, library.encode(question, answer), encoder)
    assert found.special_content == (EOT in question + answer)


def test_texts_are_single(pair):
    library, encoder = pair
    assert same(encode(encoder, {"text": "Hello world"}), library.encode("Hello world"), encoder)


@settings(max_examples=40)
@given(question=TEXT, answer=TEXT)
def test_ids_are_taken_apart_as_they_were_put_together(question, answer, pair):
    library, encoder = pair
    for encoding in (library.encode(question, answer), library.encode(question + "a")):
        assert same(encode(encoder, {"input_ids": encoding.ids}), encoding, encoder)


def test_ids_that_are_no_pair(pair, tiny):
    _, encoder = pair
    record = {"input_ids": [1, 2, 3]}
    if not encoder._form.pair_types:
        assert encode(encoder, record).ids.tolist() == [1, 2, 3]
        return
    with pytest.raises(InputError, match=rf"expected ids that begin with \[{tiny.bos_id}\] and end in"):
        encode(encoder, record)


@pytest.mark.parametrize("pads", [(2, 0), (0, 3)])
def test_padded_ids_are_refused(tiny, pads):
    """An encoder sees every token: without the mask of the caller's batch, padding would be part of the pair."""
    ids = ((tiny.bos_id,), (tiny.eos_id,), (tiny.eos_id,))
    form = replace(chat_format(tiny), layout="text_pair", template=None, template_variables={}, pair_ids=ids)
    manifest = classifier(tiny, form)
    graph = Graph(file="encoder.onnx", dialect="ort-cpu", compute_dtype="fp32", layout="padded", pad_id=tiny.pad_id)
    last = PositionRule(rule="last")
    encoder = RequestTokenizer(replace(manifest, positions={"score": last}, graphs=(graph,)), tiny.folder)
    pair = [tiny.bos_id, 7, tiny.eos_id, 8, tiny.eos_id]
    assert encode(encoder, {"input_ids": pair}).ids.tolist() == pair
    padded = [tiny.pad_id] * pads[0] + pair + [tiny.pad_id] * pads[1]
    with pytest.raises(InputError, match=rf"found {sum(pads)} pad token\(s\)"):
        encode(encoder, {"input_ids": padded})


def test_prefixes(pair, tiny):
    library, encoder = pair
    form = encoder._form
    prefixed = cross_encoder(
        tiny, pair_ids=form.pair_ids, pair_types=form.pair_types, pair_prefixes=("Question:", " Answer:")
    )
    found = encode(prefixed, {"prompt": "Q", "response": "a"})
    assert same(found, library.encode("Question:Q", " Answer:a"), prefixed)


@settings(max_examples=60)
@given(question=st.lists(WORD, min_size=1, max_size=6), answer=st.lists(WORD, max_size=6), data=st.data())
def test_truncation_takes_from_the_texts_alone(question, answer, data, pair):
    """On the right from the answer, as the library's strategy "only_second"; then from the question."""
    library, encoder = pair
    record = {"prompt": "".join(question), "response": "".join(answer)}
    whole = library.encode(record["prompt"], record["response"])
    special = sum(map(len, encoder._form.pair_ids))
    limit = data.draw(st.integers(special, len(whole.ids)))
    inside = library.encode(record["response"], add_special_tokens=False).ids
    texts = [library.encode(record["prompt"], add_special_tokens=False).ids, inside]
    room = limit - special
    from_left = (texts[0] + inside)[len(texts[0]) + len(inside) - room :]
    at_left = max(0, len(texts[0]) - (len(whole.ids) - limit))
    for side, left, right in (
        ("right", texts[0][:room], inside[: max(0, room - len(texts[0]))]),
        ("left", from_left[:at_left], from_left[at_left:]),
    ):
        found = encode(encoder, record, ScoreOptions(truncate=side, max_length=limit))
        first, middle, last = encoder._form.pair_ids
        assert found.ids.tolist() == [*first, *left, *middle, *right, *last]
        assert found.truncated == len(whole.ids) - limit
        if found.types is not None:
            front = len(first) + len(left) + len(middle)
            assert types_of(found) == [0] * front + [1] * (limit - front)
    with pytest.raises(InputTooLong, match=rf"the limit is {special - 1}, and only"):
        encode(encoder, record, ScoreOptions(truncate="right", max_length=special - 1))


def test_too_long_without_truncation(pair):
    _, encoder = pair
    with pytest.raises(InputTooLong, match=r"the limit is 512; .*--truncate"):
        encode(encoder, {"prompt": "a" * 300, "response": "b" * 300})


@pytest.mark.parametrize(
    ("roles", "found"),
    [
        (("user",), "found the turns user;"),
        (("system", "user", "assistant"), "found the turns system, user, assistant;"),
        (("user", "assistant", "user", "assistant"), "found the turns user, assistant, user, assistant;"),
    ],
)
def test_one_question_and_one_answer(roles, found, pair):
    _, encoder = pair
    with pytest.raises(InputError, match=f"{found} this model takes a pair of texts.*one user turn and one assistant"):
        encode(encoder, {"messages": [{"role": role, "content": "a"} for role in roles]})


def test_steps_are_partial_answers(pair):
    _, encoder = pair
    partial = encoder.encode(parse_record({"prompt": "Q", "steps": ["a", "b"]}), OPTIONS)
    whole = encoder.encode(parse_record({"prompt": "Q", "responses": ["a", "ab"]}), OPTIONS)
    assert [s.ids.tolist() for s in partial] == [s.ids.tolist() for s in whole]
    assert [types_of(s) for s in partial] == [types_of(s) for s in whole]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pair_ids": ((1,), (2,))}, r"format\.pair_ids: found 2 of them, text_pair takes 3"),
        ({"pair_types": (0, 1)}, r"format\.pair_types: found 2 of them, text_pair takes 0 or 5"),
        ({"pair_prefixes": ("a",)}, r"format\.pair_prefixes: found 1 of them, text_pair takes 2"),
        ({"bos": "one"}, "found a bos policy, append or system"),
        ({"append": (1,)}, "found a bos policy, append or system"),
        ({"system": "S"}, "found a bos policy, append or system"),
        ({"unit": "step"}, "but text_pair scores by sequence"),
    ],
)
def test_what_it_needs(changes, message):
    form = Format(layout="text_pair", pair_ids=((1,), (2,), (3,)))
    assert find_layout(form).name == "text_pair"
    with pytest.raises(BundleError, match=message):
        find_layout(replace(form, **changes))


def test_ids_outside_the_vocabulary_are_the_bundles_fault(tiny):
    with pytest.raises(BundleError, match=r"format\.pair_ids: found \[99999\], expected ids of 0 to"):
        cross_encoder(tiny, pair_ids=((1,), (2,), (99999,)))
