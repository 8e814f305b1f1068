"""Opens a tokenizer.json that cannot be trusted: files that could abort the process are refused, panics are caught.

The library is written in Rust, whose panics reach Python as a BaseException of its own, and whose failed allocations
end the process. So normalizers that can make very long texts of short ones are refused.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tokenizers

MAX_GROWTH = 1024  # bytes that a normalizer may make of one byte; published ones stay below 250
MAX_ADDED = 1 << 16  # tokens; published ones have up to some thousands
_CHARSMAP = re.compile(rb'"precompiled_charsmap"\s*:\s*"([^"\\]*)"')
_CHARSMAP_NAME = b"precompiled_charsmap"
_HIDDEN_NAME = re.compile(rb"\\u00[2-7]")  # an ASCII letter written as an escape, which no tokenizer's writer does


class TokenizerFault(ValueError):
    """The file cannot be used, or a text cannot be tokenized with it; the message says why."""


@contextmanager
def panics_caught() -> Iterator[None]:
    """Turns a panic of the library into TokenizerFault; Ctrl-C and other exceptions pass.

    >>> with panics_caught():
    ...     tokenizers.Tokenizer.from_str("{}")
    Traceback (most recent call last):
    Exception: ...
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ != "pyo3_runtime" or type(error).__name__ != "PanicException":
            raise
        raise TokenizerFault(str(error).strip().splitlines()[0] if str(error).strip() else "it panicked") from error


def open_tokenizer(raw: bytes) -> tokenizers.Tokenizer:
    """The tokenizer that the bytes of a tokenizer.json describe.

    Raises TokenizerFault for a file that cannot be used, or that could abort the process.

    >>> model = {"type": "WordLevel", "vocab": {"Hello": 0, "?": 1}, "unk_token": "?"}
    >>> open_tokenizer(json.dumps({"model": model, "added_tokens": []}).encode()).encode("Hello").ids
    [0]
    """
    _check_charsmaps(raw)
    try:
        with panics_caught():
            opened = tokenizers.Tokenizer.from_buffer(raw)
            normalizer = json.loads(opened.normalizer.__getstate__()) if opened.normalizer is not None else None
            dropout = getattr(opened.model, "dropout", None)
            added = len(opened.get_added_tokens_decoder())
    except TokenizerFault:
        raise
    except Exception as error:  # the binding raises bare Exception for whatever the file's fault is
        raise TokenizerFault(str(error)) from error
    if dropout:
        raise TokenizerFault(f"its model drops merges at random (dropout {dropout}), so scores would not be repeatable")
    if added > MAX_ADDED:
        raise TokenizerFault(f"it has {added:,} added tokens, expected at most {MAX_ADDED:,}")
    if (growth := _growth(normalizer)) > MAX_GROWTH:
        raise TokenizerFault(f"its normalizer can make {growth:,.0f} bytes of 1, expected at most {MAX_GROWTH:,}")
    return opened


def _check_charsmaps(raw: bytes) -> None:
    """Raises TokenizerFault for a charsmap with a wrong size, which the library would trust."""
    if _CHARSMAP_NAME not in raw and not _HIDDEN_NAME.search(raw):
        return
    found = _CHARSMAP.findall(raw)
    if len(found) != raw.count(_CHARSMAP_NAME) or _HIDDEN_NAME.search(raw):
        found = [map_.encode(errors="replace") for map_ in _charsmaps(raw)]
    for encoded in found:
        _check_charsmap(encoded)


def _charsmaps(raw: bytes) -> Iterator[str]:
    """Every charsmap of a file that spells names with escapes, at any depth."""
    try:
        waiting = [json.loads(raw)]
    except (ValueError, RecursionError) as error:
        raise TokenizerFault(f"it is not JSON ({error})") from error
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if isinstance(item.get(_CHARSMAP_NAME.decode()), str):
                yield item[_CHARSMAP_NAME.decode()]
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _check_charsmap(encoded: bytes) -> None:
    """Raises TokenizerFault for a wrong size: 4 bytes with the size of a table in bytes, the table, then texts."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        data = b""
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or size > len(data) - 4:
        raise TokenizerFault("its precompiled_charsmap is cut off, or no such map")


def _growth(normalizer: Any) -> float:
    """The most bytes that the normalizer can make of one byte."""
    if normalizer is None:
        return 1
    kind = normalizer.get("type")
    if kind == "Sequence":
        total = 1.0
        for part in normalizer["normalizers"]:
            total *= _growth(part)
        return total
    if kind == "Replace":
        new, pattern = len(normalizer["content"].encode()), normalizer["pattern"]
        if "String" in pattern:
            return max(1.0, new / max(1, len(pattern["String"].encode())))
        return 1.0 + new  # an expression may match nothing, in front of every character
    if kind == "Precompiled":
        data = base64.b64decode(normalizer["precompiled_charsmap"])
        texts = data[4 + int.from_bytes(data[:4], "little") :].split(b"\0")
        return float(max(1, *map(len, texts)))
    return 3.0 if kind in ("NFD", "NFKD", "NFC", "NFKC", "ByteLevel") else 1.0
