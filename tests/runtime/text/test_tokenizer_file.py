"""A tokenizer.json that panics, aborts by memory or leaves ids to chance is an error of ours."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmruntime.errors import BundleError, InputError
from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer
from rmruntime.text.tokenizer import Tokenizer
from rmruntime.text.tokenizer_file import MAX_ADDED, panics_caught
from text_formats import classifier
from tiny_tokenizer import build_tokenizer

Change = Callable[[dict[str, Any]], object]


def _normalizer(**normalizer: Any) -> Change:
    return lambda data: data.update(normalizer=normalizer)


def _splits(expression: str) -> Change:
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return lambda data: data.update(pre_tokenizer=split)


def _charsmap(raw: bytes) -> Change:
    return _normalizer(type="Precompiled", precompiled_charsmap=base64.b64encode(raw).decode())


def _many_added(data: dict[str, Any]) -> None:
    one = data["added_tokens"][0]
    data["added_tokens"] = [one | {"id": 1000 + i, "content": f"<{i}>"} for i in range(MAX_ADDED + 1)]


_DOUBLING = {"type": "Replace", "pattern": {"String": "x"}, "content": "xx"}
REFUSED = {
    "no JSON": lambda data: data.clear(),
    "an expression that is none": _splits("("),
    "an expression without end": _splits("(" * 9999 + ")" * 9999),
    "a charsmap of absurd size": _charsmap(b"\xff" * 8),
    "a charsmap that is cut off": _charsmap(b"\x08\0\0\0\0"),
    "a charsmap that is none": _normalizer(type="Precompiled", precompiled_charsmap="//"),
    "texts that double": _normalizer(type="Sequence", normalizers=[_DOUBLING] * 40),
    "texts that grow": _normalizer(type="Replace", pattern={"Regex": ""}, content="x" * 100_000),
    "chance": lambda data: data["model"].update(dropout=0.5),
    "added tokens without end": _many_added,
}


def written(folder: Path, change: Change) -> Path:
    path = build_tokenizer(folder).folder / "tokenizer.json"
    data = json.loads(path.read_bytes())
    change(data)
    path.write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_tokenizers_that_are_refused_when_loaded(tmp_path: Path, change: Change) -> None:
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        Tokenizer(written(tmp_path, change))


def test_a_hidden_charsmap(tmp_path: Path) -> None:
    """A name may be spelled in more than one way."""
    folder = written(tmp_path, _charsmap(b"\xff" * 8))
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("precompiled_charsmap", "precompiled\\u005fcharsmap"))
    with pytest.raises(BundleError, match="precompiled_charsmap"):
        Tokenizer(folder)


def test_a_panic_is_the_error_of_its_record_alone(tmp_path: Path) -> None:
    """The expression takes for ever over many a's, and the library gives up by a panic."""
    tiny = build_tokenizer(tmp_path)
    written(tmp_path, _splits("(a+)+$b"))
    encoder = RequestTokenizer(classifier(tiny), tmp_path)
    texts = ("one", "a" * 60, "two")
    requests = [parse_record({"text": text}) for text in texts]
    found = encoder.encode_many(requests, ScoreOptions())
    assert [isinstance(outcome, InputError) for outcome in found] == [False, True, False]
    alone = [encoder.encode(parse_record({"text": text}), ScoreOptions())[0].ids.tolist() for text in ("one", "two")]
    assert [found[0][0].ids.tolist(), found[2][0].ids.tolist()] == alone  # type: ignore[union-attr] # not errors


def test_ctrl_c_is_no_panic() -> None:
    with pytest.raises(KeyboardInterrupt), panics_caught():
        raise KeyboardInterrupt
