"""Rerankers' pieces: tokenized by themselves, and only the document is cut."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmruntime.bundle.manifest import PositionRule
from rmruntime.errors import BundleError, InputError, InputTooLong
from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.text.layouts import find_layout
from rmruntime.text.request_tokenizer import RequestTokenizer
from rmruntime.text.segments import PLACEHOLDER
from text_formats import chat_format, classifier
from tiny_tokenizer import BOS, EOT, build_tokenizer

OPTIONS = ScoreOptions()
PIECES = (
    "Judge.\n",
    "{% if instruction %}{{ instruction }}\n{% endif %}Q: {{ query }}",
    "\n",
    "D: {{ document }}.\n",
    "Yes?",
)
WHOLE = ("Q: {{ query }}\nD: {{ document }}\n" + EOT + "assistant\n",)
ROLES = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] | trim + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Relevant:' }}{% endif %}"
)
TEXT = st.lists(st.sampled_from((" the", " ", "🙂", "+", "a", "é", " answer", ".", "\n", EOT)), max_size=6).map("".join)
QUERIES = TEXT.filter(lambda text: text.strip())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def roles(tmp_path_factory):
    """A chat template over the roles system, query and document."""
    return build_tokenizer(tmp_path_factory.mktemp("roles"), chat_template=ROLES)


@pytest.fixture(scope="module")
def reference(tiny):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tiny.folder)


def reranker(tiny, *pieces, max_length=256, **changes):
    fields = {"layout": "query_document", "template": None if pieces else "chat_template.jinja", "pieces": pieces}
    form = replace(chat_format(tiny), **{**fields, "takes_instruction": True, **changes})
    manifest = classifier(tiny, form, max_length=max_length)
    return RequestTokenizer(replace(manifest, positions={"score": PositionRule(rule="last")}), tiny.folder)


def encode(encoder, record, options=OPTIONS):
    return encoder.encode(parse_record(record), options)


@settings(max_examples=60)
@given(query=QUERIES, document=TEXT, instruction=st.sampled_from((None, "Be brief.", "é🙂")))
def test_every_piece_is_tokenized_by_itself(query, document, instruction, tiny, reference):
    def alone(text):
        return reference(text, add_special_tokens=False)["input_ids"]

    asked = f"{instruction}\nQ: {query}" if instruction else f"Q: {query}"
    parts = ("Judge.\n", asked, "\n", f"D: {document}.\n", "Yes?")
    record = {"query": query, "documents": [document], "instruction": instruction}
    [sequence] = encode(reranker(tiny, *PIECES), record)
    assert sequence.ids.tolist() == [token for part in parts for token in alone(part)]
    [answer] = encode(reranker(tiny, *PIECES), {"prompt": [
        *([{"role": "system", "content": instruction}] if instruction else []), {"role": "user", "content": query},
    ], "response": document})  # fmt: skip
    assert answer.ids.tolist() == sequence.ids.tolist()


def test_a_piece_ends_in_the_line_end_it_is_written_with(tiny, reference):
    """Jinja drops one at a template's end."""
    [sequence] = encode(
        reranker(tiny, "{{ query }}", "\n", "{{ document }}", ".\n"), {"query": "a", "documents": ["b"]}
    )
    assert sequence.ids.tolist() == [reference.encode(t, add_special_tokens=False)[0] for t in ("a", "\n", "b", ".\n")]


@settings(max_examples=60, deadline=None)
@given(
    query=QUERIES.filter(lambda text: len(text) < 12),
    document=st.text("ab .é🙂\n", min_size=1, max_size=60),
    limit=st.integers(30, 60),
    side=st.sampled_from(("left", "right")),
)
def test_only_the_document_is_cut(query, document, limit, side, tiny, reference):
    """What is before and after it stays, to the token, whichever side is cut."""
    encoder = reranker(tiny, *WHOLE)
    record = {"query": query, "documents": [document]}
    [whole] = encode(encoder, record)
    options = ScoreOptions(max_length=limit, truncate=side)
    before, after = f"Q: {query}\nD: ", f"\n{EOT}assistant\n"
    try:
        [cut] = encode(encoder, record, options)
    except InputTooLong:
        fixed = len(reference.encode(before + after, add_special_tokens=False))
        assert fixed + 8 > limit  # some tokens hold characters of the document and of its neighbours
        return
    assert len(cut.ids) == min(limit, len(whole.ids)) and cut.truncated == len(whole.ids) - len(cut.ids)
    assert cut.reads["score"].tolist() == [len(cut.ids) - 1]
    left = next((i for i, (a, b) in enumerate(zip(whole.ids, cut.ids, strict=False)) if a != b), len(cut.ids))
    kept_end = whole.ids[len(whole.ids) - (len(cut.ids) - left) :]
    assert kept_end.tolist() == cut.ids[left:].tolist()
    text = reference.decode(cut.ids.tolist())
    if "�" not in text:  # a cut within a character
        assert text.startswith(before[:-1]) and text.endswith(after[1:])


def test_the_query_is_never_cut(tiny):
    encoder = reranker(tiny, *PIECES)
    record = {"query": "b" * 80, "documents": ["c" * 5]}
    with pytest.raises(InputTooLong, match=r"documents|only \d+ of them may be cut: .*a query and its template"):
        encode(encoder, record, ScoreOptions(max_length=64, truncate="right"))
    with pytest.raises(InputTooLong, match=r"^documents\[1\]: found \d+ tokens, the limit is 64"):
        encode(encoder, {"query": "b", "documents": ["c", "c" * 500]}, ScoreOptions(max_length=64))


def test_a_template_over_roles(roles):
    encoder = reranker(roles, generation_prompt=True)
    record = {"query": "2 + 2?", "documents": ["4 "], "instruction": "Be brief."}
    [sequence] = encode(encoder, record)
    text = "system: Be brief.\nquery: 2 + 2?\ndocument: 4\nRelevant:"
    [given] = encode(encoder, {"text": text})
    assert sequence.ids.tolist() == given.ids.tolist()
    for side in ("left", "right"):
        [cut] = encode(encoder, {**record, "documents": [" long " * 200]}, ScoreOptions(max_length=90, truncate=side))
        assert len(cut.ids) == 90 and cut.ids[-8:].tolist() == given.ids[-8:].tolist()
        assert cut.ids[:34].tolist() == given.ids[:34].tolist()


def test_a_short_document_is_found_by_its_place(roles):
    """ "a" is in the template's own text too, which no cut may touch."""
    encoder = reranker(roles, generation_prompt=True)
    record = {"query": "b" * 60, "documents": ["e"]}
    [whole] = encode(encoder, record)
    [cut] = encode(encoder, record, ScoreOptions(max_length=len(whole.ids) - 1, truncate="right"))
    [given] = encode(encoder, {"text": f"query: {'b' * 60}\ndocument: \nRelevant:"})
    assert len(cut.ids) == len(whole.ids) - 1 and cut.ids[-8:].tolist() == given.ids[-8:].tolist()


def test_a_bos_in_front_moves_the_cut(tiny):
    encoder = reranker(tiny, *WHOLE, bos="one")
    record = {"query": "a", "documents": [f"b{BOS}" + "c" * 90]}
    [whole] = encode(encoder, record)
    [cut] = encode(encoder, record, ScoreOptions(max_length=40, truncate="right"))
    assert whole.ids.tolist().count(tiny.bos_id) == 1 and cut.ids[0] == tiny.bos_id
    assert cut.ids[-3:].tolist() == whole.ids[-3:].tolist() and len(cut.ids) == 40


def test_doubtful_documents_are_flagged(tiny):
    empty, spelled, *same = encode(reranker(tiny, *PIECES), {"query": "a", "documents": ["", f"b{EOT}", "c", "c"]})
    assert empty.doubts == ("no answer to judge: the document is empty",)
    assert spelled.flags == (f"content spells {EOT}",)
    assert [sequence.doubts for sequence in same] == [(), ()]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a"} | {"chosen": "b", "rejected": "c"}, None),
        ({"messages": [{"role": "user", "content": "a"}]}, "found the turns user; this model judges a document"),
        ({"prompt": [{"role": r, "content": "a"} for r in ("user", "assistant", "user")], "response": "b"},
         "found the turns user, assistant, user, assistant; .*expected query and documents"),
        ({"query": "a", "documents": ["b"], "instruction": "c"}, "found an instruction .*does not take"),
        ({"query": f"a{PLACEHOLDER}", "documents": ["b"]}, "found the private characters"),
    ],
)  # fmt: skip
def test_what_it_cannot_hold(tiny, record, message):
    encoder = reranker(tiny, "{{ query }}", "{{ document }}", takes_instruction=False)
    if message is None:
        assert len(encode(encoder, record)) == 2
        return
    with pytest.raises(InputError, match=message):
        encode(encoder, record)


def test_steps_are_partial_documents(tiny):
    encoder = reranker(tiny, *PIECES)
    partial = encode(encoder, {"prompt": "a", "steps": ["b", "c"]})
    whole = encode(encoder, {"query": "a", "documents": ["b", "bc"]})
    assert [s.ids.tolist() for s in partial] == [s.ids.tolist() for s in whole]


def test_formats_that_lack_something(tiny):
    with pytest.raises(BundleError, match=r"format\.pieces: found none and no template"):
        find_layout(replace(chat_format(tiny), layout="query_document", template=None))
    with pytest.raises(BundleError, match="does not compile"):
        find_layout(replace(chat_format(tiny), layout="query_document", pieces=("{{ query }",)))
