"""Reads special and added tokens from a checkpoint's files, and adds them to its tokenizer.json.

Rules as in transformers 5: `added_tokens_decoder` of tokenizer_config.json decides; special_tokens_map.json and
added_tokens.json are used only where it is absent; tokens that tokenizer.json lacks are added to it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from rmexport.checkpoint.config_fields import read_json_object
from rmexport.errors import CheckpointError

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class StatedTokens:
    """`named` maps bos_token, eos_token, ... to their text; `added` has (stated id, token) in the order of adding."""

    named: Mapping[str, str]
    added: tuple[tuple[int | None, AddedToken], ...]


def read_stated_tokens(folder: Path, tokenizer_config: Mapping[str, Any]) -> StatedTokens:
    """The tokens in files other than tokenizer.json. Raises CheckpointError for values that are not tokens.

    >>> read_stated_tokens(Path(), {"bos_token": "<s>", "eos_token": {"content": "</s>"}}).named
    {'bos_token': '<s>', 'eos_token': '</s>'}
    """
    stated = dict(tokenizer_config)
    decoder = stated.get("added_tokens_decoder")
    if decoder is None:
        stated |= _optional(folder / "special_tokens_map.json")
        decoder = _legacy_decoder(_optional(folder / "added_tokens.json"), stated)
    if not isinstance(decoder, dict) or not all(str(key).isdigit() for key in decoder):
        raise CheckpointError(
            f"{folder}/tokenizer_config.json: added_tokens_decoder is not an object of tokens by id; "
            "restore the original"
        )
    added: list[tuple[int | None, AddedToken]] = [
        (int(key), _token(value, f"added_tokens_decoder[{key}]")) for key, value in decoder.items()
    ]
    added.sort(key=lambda item: item[0] or 0)
    named = _named_tokens(stated)
    added += [(None, _token(token, name)) for name, token in named.items()]
    added += [(None, _token(token, "extra special token")) for token in _extra(stated)]
    return StatedTokens({name: _content(token) for name, token in named.items()}, tuple(added))


def add_missing_tokens(tokenizer: Tokenizer, stated: Iterable[tuple[int | None, AddedToken]]) -> list[str]:
    """Add tokens that `tokenizer` lacks, or has with other properties; returns notes on ids that come out otherwise."""
    there = tokenizer.get_added_tokens_decoder().values()
    known, contents = {repr(token) for token in there}, {token.content for token in there}
    notes = []
    for index, token in stated:
        # a token without an id of its own says only that it exists, not how it is matched
        if repr(token) not in known and (index is not None or token.content not in contents):
            tokenizer.add_tokens([token])
            known.add(repr(token))
            contents.add(token.content)
        found = tokenizer.token_to_id(token.content)
        if index is not None and found != index:
            notes.append(
                f"tokenizer_config.json gives {token.content!r} the id {index}, tokenizer.json {found}: used is {found}"
            )
    return notes


def _named_tokens(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Standard names first, then model-specific ones (`*_token`, or `extra_special_tokens` as an object)."""
    others = {key: value for key, value in stated.items() if key.endswith("_token") and isinstance(value, str | dict)}
    if isinstance(extra := stated.get("extra_special_tokens"), dict):
        others |= extra
    standard = {name: stated[name] for name in _NAMED if stated.get(name) is not None}
    return standard | {name: value for name, value in others.items() if name not in _NAMED}


def _extra(stated: Mapping[str, Any]) -> list[Any]:
    listed = stated.get("extra_special_tokens") or stated.get("additional_special_tokens") or []
    return listed if isinstance(listed, list) else []


def _legacy_decoder(added: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    special = {_content(token) for token in [*_named_tokens(stated).values(), *_extra(stated)]}
    return {
        str(index): {"content": text, "normalized": text not in special, "special": text in special}
        for text, index in added.items()
    }


def _token(value: Any, where: str) -> AddedToken:
    """A token from its text, which makes it a special one, or from its properties."""
    fields: Any = {"content": value, "special": True} if isinstance(value, str) else value
    if not isinstance(fields, dict) or not isinstance(fields.get("content"), str):
        raise CheckpointError(
            f"the tokenizer's {where} is {value!r}, expected a text or an object with content; restore the original"
        )
    if "__type" in fields or "special" not in fields:
        fields = {**fields, "special": True}
    try:
        return AddedToken(**{name: fields[name] for name in _FIELDS if name in fields})
    except TypeError as error:
        raise CheckpointError(f"the tokenizer's {where} is {value!r}: {error}") from error


def _content(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)


def _optional(path: Path) -> dict[str, Any]:
    return read_json_object(path) if path.is_file() else {}
