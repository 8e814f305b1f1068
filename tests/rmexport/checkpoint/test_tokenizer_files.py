"""Tokenizers come out as transformers itself would use them, with one template, and with their contradictions named."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from rmexport.checkpoint import read_tokenizer
from rmexport.errors import CheckpointError
from tiny_tokenizer import BOS, EOS, LLAMA3, PAD, build_tokenizer

TEXTS = ("Hello world", f"{BOS}user\n\nHello<|eot_id|>", "a [PAD] b <new> c <raw>d", " < new>", f"x{EOS}{EOS}", "ки \n")


def edit(folder: Path, name: str = "tokenizer_config.json", **fields: Any) -> None:
    """Set fields of a JSON file; a field set to None is removed."""
    path = folder / name
    data = json.loads(path.read_text()) if path.exists() else {}
    data |= fields
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_tokenizer(tmp_path)
    return tmp_path


def same_as_transformers(folder: Path) -> None:
    """Our tokenizer.json tokenizes as AutoTokenizer does, with and without added special tokens."""
    ours = Tokenizer.from_buffer(read_tokenizer(folder).tokenizer_json)
    theirs = AutoTokenizer.from_pretrained(str(folder))
    for text in TEXTS:
        for special in (False, True):
            assert ours.encode(text, add_special_tokens=special).ids == theirs.encode(text, add_special_tokens=special)
    added = {index: repr(token) for index, token in ours.get_added_tokens_decoder().items()}
    assert added == {index: repr(token) for index, token in theirs.added_tokens_decoder.items()}


def test_a_complete_tokenizer_is_taken_verbatim(folder: Path) -> None:
    found = read_tokenizer(folder)
    assert found.tokenizer_json == (folder / "tokenizer.json").read_bytes()
    assert found.template == LLAMA3
    assert found.special_tokens == {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    assert found.bos_added_by_tokenizer
    same_as_transformers(folder)


def test_tokens_that_only_the_config_knows(folder: Path) -> None:
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    decoder = {
        str(size + 1): {"content": "<raw>", **plain, "special": False, "normalized": True},
        str(size): {"content": "<new>", **plain, "lstrip": True},
    }
    edit(folder, added_tokens_decoder=decoder, pad_token="<pad>")
    found = read_tokenizer(folder)
    tokenizer = Tokenizer.from_buffer(found.tokenizer_json)
    assert [tokenizer.token_to_id(token) for token in ("<new>", "<raw>", "<pad>")] == [size, size + 1, size + 2]
    assert found.special_tokens["pad_token"] == "<pad>"
    assert not any("gives" in note for note in found.notes)
    same_as_transformers(folder)


def test_properties_that_the_config_changes(folder: Path) -> None:
    pad = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(PAD)
    properties = {"content": PAD, "lstrip": True, "rstrip": True, "normalized": False, "special": True}
    edit(folder, added_tokens_decoder={str(pad): {**properties, "single_word": False}})
    same_as_transformers(folder)


def test_ids_that_cannot_be_as_stated_are_noted(folder: Path) -> None:
    token = {"content": "<new>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    edit(folder, added_tokens_decoder={"5": {**token, "special": True}})
    [note] = [note for note in read_tokenizer(folder).notes if "<new>" in note]
    assert "the id 5" in note
    same_as_transformers(folder)


def test_old_side_files(folder: Path) -> None:
    """special_tokens_map.json and added_tokens.json count where there is no added_tokens_decoder."""
    size = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    edit(folder, "special_tokens_map.json", pad_token={"content": "<new>", "lstrip": False, "normalized": False})
    edit(folder, "added_tokens.json", **{"<new>": size, "<raw>": size + 1})
    found = read_tokenizer(folder)
    assert found.special_tokens["pad_token"] == "<new>"
    assert Tokenizer.from_buffer(found.tokenizer_json).token_to_id("<raw>") == size + 1
    same_as_transformers(folder)


@pytest.mark.skipif(transformers.__version__ < "5", reason="compares with the naming rule of transformers 5")
def test_tokens_as_objects_and_of_other_names(folder: Path) -> None:
    bos = {"__type": "AddedToken", "content": BOS, "lstrip": False, "rstrip": False, "normalized": False}
    edit(folder, bos_token=bos, unk_token=None, image_token="<new>", add_bos_token=True)
    found = read_tokenizer(folder).special_tokens
    assert found["bos_token"] == BOS
    assert found["image_token"] == "<new>"
    assert "add_bos_token" not in found
    same_as_transformers(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"bos_token": 5},
        {"bos_token": {"text": "x"}},
        {"added_tokens_decoder": []},
        {"added_tokens_decoder": {"x": {"content": "a"}}},
        {"added_tokens_decoder": {"1": {"content": 1}}},
        {"chat_template": 5},
        {"chat_template": [{"name": "default", "template": None}]},
        {"chat_template": ["text"]},
    ],
)
def test_broken_configs(folder: Path, fields: dict[str, Any]) -> None:
    (folder / "chat_template.jinja").unlink()
    edit(folder, **fields)
    with pytest.raises(CheckpointError):
        read_tokenizer(folder)


def test_truncation_and_padding_are_the_runtimes_business(folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    found = Tokenizer.from_buffer(read_tokenizer(folder).tokenizer_json)
    assert found.truncation is None
    assert found.padding is None


class TestTemplates:
    """Where a template may be, and which one wins."""

    def template(self, folder: Path) -> str | None:
        return read_tokenizer(folder).template

    def test_the_jinja_file_wins(self, folder: Path) -> None:
        edit(folder, chat_template="other")
        assert self.template(folder) == LLAMA3
        assert any("differ" in note for note in read_tokenizer(folder).notes)
        assert AutoTokenizer.from_pretrained(str(folder)).chat_template == LLAMA3

    def test_the_config(self, folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        assert self.template(folder) == LLAMA3

    def test_a_named_list(self, folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
        edit(folder, chat_template=named)
        assert self.template(folder) == "D"
        edit(folder, chat_template=named[:1])
        with pytest.raises(CheckpointError, match="tool_use and no 'default'"):
            read_tokenizer(folder)

    def test_the_processors_file(self, folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        edit(folder, chat_template=None)
        assert self.template(folder) is None
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": "P"}))
        assert self.template(folder) == "P"

    def test_not_text(self, folder: Path) -> None:
        (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
        with pytest.raises(CheckpointError, match="UTF-8"):
            read_tokenizer(folder)


class TestNotes:
    """Contradictions between config, template and tokenizer."""

    def notes(self, folder: Path) -> str:
        return "\n".join(read_tokenizer(folder).notes)

    def test_two_bos(self, folder: Path) -> None:
        assert "code that does both gets two" in self.notes(folder)
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
        edit(folder, chat_template=None)
        assert "code that does both gets two" not in self.notes(folder)

    def test_add_bos_token(self, folder: Path) -> None:
        edit(folder, add_bos_token=False)
        assert "add_bos_token false, tokenizer.json adds it" in self.notes(folder)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
        tokenizer.save(str(folder / "tokenizer.json"))
        edit(folder, add_bos_token=True)
        assert "add_bos_token true, tokenizer.json does not add it" in self.notes(folder)
        assert not read_tokenizer(folder).bos_added_by_tokenizer

    def test_ids_of_the_model_config(self, folder: Path) -> None:
        tiny = build_tokenizer(folder)
        good = {"bos_token_id": tiny.bos_id, "eos_token_id": [tiny.eot_id, tiny.eos_id], "pad_token_id": tiny.pad_id}
        edit(folder, "config.json", **good, vocab_size=tiny.vocab_size)
        assert "config.json has" not in self.notes(folder)
        edit(folder, "config.json", pad_token_id=None, eos_token_id=3, vocab_size=10)
        notes = self.notes(folder)
        assert f"pad_token_id None, the tokenizer's pad_token is {tiny.pad_id}" in notes
        assert "eos_token_id 3" in notes
        assert "bos_token_id" not in notes
        assert f"ids up to {tiny.vocab_size - 1}, config.json's vocab_size is 10" in notes


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer"):
        read_tokenizer(tmp_path)


def test_damaged_tokenizers(folder: Path) -> None:
    for raw in (b"", b"{}", b"{", b"\xff", b'{"version": "1.0", "model": {"type": "??"}}'):
        (folder / "tokenizer.json").write_bytes(raw)
        with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
            read_tokenizer(folder)


def test_vocabulary_files_are_converted(tmp_path: Path) -> None:
    """A GPT-2 style vocabulary without tokenizer.json."""
    vocab = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {"he": len(vocab), "<|endoftext|>": len(vocab) + 1}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\n")
    edit(tmp_path, tokenizer_class="GPT2Tokenizer", eos_token="<|endoftext|>")
    edit(tmp_path, "config.json", model_type="gpt2")
    found = read_tokenizer(tmp_path)
    assert Tokenizer.from_buffer(found.tokenizer_json).encode("he").ids == [vocab["he"]]
    assert found.special_tokens["eos_token"] == "<|endoftext|>"


def test_sentencepiece_is_converted(tmp_path: Path) -> None:
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the reward of the model is the score of the answer\n" * 50)
    files = {"input": str(corpus), "model_prefix": str(tmp_path / "tokenizer")}
    ids = {"pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2}
    sentencepiece.SentencePieceTrainer.train(**files, **ids, vocab_size=40, model_type="bpe", minloglevel=2)
    edit(tmp_path, tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    edit(tmp_path, "config.json", model_type="llama")
    tokenizer = Tokenizer.from_buffer(read_tokenizer(tmp_path).tokenizer_json)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert tokenizer.encode("the reward", add_special_tokens=False).ids == pieces.encode("the reward")


def test_conversion_without_transformers_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"rmexport\[convert\]"):
        read_tokenizer(tmp_path)


def test_conversion_that_fails(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be converted"):
        read_tokenizer(tmp_path)


def test_code_of_the_checkpoint_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    trap = tmp_path / "ran"
    (tmp_path / "custom.py").write_text(f"open({str(trap)!r}, 'w')\nclass Custom: ...\n")
    edit(tmp_path, tokenizer_class="Custom", auto_map={"AutoTokenizer": ["custom.Custom", None]})
    edit(tmp_path, "config.json", model_type="nobodys")
    with pytest.raises(CheckpointError):
        read_tokenizer(tmp_path)
    assert not trap.exists()


def test_word_level_tokenizers_need_no_config(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.add_special_tokens([AddedToken("[UNK]", special=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = read_tokenizer(tmp_path)
    assert (found.template, dict(found.special_tokens), found.bos_added_by_tokenizer, found.notes) == (
        None,
        {},
        False,
        (),
    )
