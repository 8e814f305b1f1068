"""Tokenization: the ids of transformers, and BOS policies."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmruntime.bundle.manifest import Format
from rmruntime.errors import BundleError
from rmruntime.text.tokenizer import BosRule, Tokenizer
from tiny_tokenizer import BOS, EOT, SPECIALS, build_tokenizer

TEXT = st.lists(st.sampled_from((*SPECIALS, " the", "\n\n", "ки", "🙂", "<|eot")) | st.text(max_size=8), max_size=6)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return Tokenizer(tiny.folder)


@pytest.fixture(scope="module")
def reference(tiny):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tiny.folder)


@settings(max_examples=200)
@given(pieces=TEXT)
def test_ids_are_those_of_transformers(pieces, tokenizer, reference):
    text = "".join(pieces)
    assert tokenizer.encode(text).tolist() == reference(text, add_special_tokens=False)["input_ids"]


def test_batches_are_encoded_alike(tokenizer):
    texts = ["", "Hello world", f"{BOS}a{EOT}", "ки" * 50]
    for ids, text in zip(tokenizer.encode_batch(texts), texts, strict=True):
        assert ids.dtype == np.int64 and ids.tolist() == tokenizer.encode(text).tolist()
    assert tokenizer.encode_batch([]) == []


def test_trap_truncation_and_padding_stored_in_the_file(tmp_path, tokenizer):
    folder = build_tokenizer(tmp_path).folder
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    stored["padding"] = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0}
    stored["padding"] |= {"pad_type_id": 0, "pad_token": "!"}
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    text = "What is the sum?"
    assert Tokenizer(folder).encode(text).tolist() == tokenizer.encode(text).tolist()


def test_special_texts_and_where_text_spells_them(tokenizer):
    assert set(tokenizer.special_texts) == set(SPECIALS)
    assert tokenizer.find_special(f"a{EOT}b<|eot_id |>{BOS}") == [EOT, BOS]
    assert tokenizer.find_special("plain text, <|user|>") == []


def test_tokens_that_are_added_but_not_special_are_not_reported(tmp_path):
    folder = build_tokenizer(tmp_path).folder
    stored = json.loads((folder / "tokenizer.json").read_text())
    next(token for token in stored["added_tokens"] if token["content"] == EOT)["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    assert Tokenizer(folder).find_special(f"{EOT}{BOS}") == [BOS]


def test_a_tokenizer_without_special_tokens_finds_none(tmp_path):
    folder = build_tokenizer(tmp_path).folder
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored |= {"added_tokens": [], "post_processor": None}
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    assert Tokenizer(folder).find_special(BOS) == []


def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(BundleError, match=r"tokenizer.json is missing"):
        Tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BundleError, match="cannot be read by tokenizers"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("policy", "given_ids", "expected"),
    [
        ("one", [1, 2], [9, 1, 2]),
        ("one", [9, 1, 9], [9, 1, 9]),
        ("one", [9, 9, 1], [9, 1]),
        ("one", [9, 9], [9]),
        ("one", [], [9]),
        ("zero", [9, 9, 1, 9], [1, 9]),
        ("zero", [1], [1]),
        ("as-is", [9, 9, 1], [9, 9, 1]),
    ],
)
def test_bos_policies_on_ids(policy, given_ids, expected):
    rule = BosRule() if policy == "as-is" else BosRule(one=policy == "one", bos_id=9, bos_text="<s>")
    assert rule.apply(np.array(given_ids, dtype=np.int64)).tolist() == expected


def test_bos_policies_on_text(tiny, tokenizer):
    text = f"{BOS}a{BOS}b"
    for policy, expected in (("one", "ab"), ("zero", "ab"), ("as-is", text)):
        form = Format(layout="chat", bos=policy, bos_id=tiny.bos_id)
        assert BosRule.from_format(form, tokenizer).clean_text(text) == expected


def test_bos_policies_that_cannot_be_used(tokenizer):
    assert BosRule.from_format(Format(layout="chat", bos="zero"), tokenizer) == BosRule()
    with pytest.raises(BundleError, match="'one' without a bos_id"):
        BosRule.from_format(Format(layout="chat", bos="one"), tokenizer)
    with pytest.raises(BundleError, match=r"found 99999, expected an id that tokenizer\.json has"):
        BosRule.from_format(Format(layout="chat", bos="one", bos_id=99999), tokenizer)
