"""Finds contradictions between a checkpoint's model config, tokenizer config, tokenizer and chat template."""

from collections.abc import Iterator, Mapping
from typing import Any

from tokenizers import Tokenizer


def disagreements(
    tokenizer: Tokenizer,
    special_tokens: Mapping[str, str],
    template: str | None,
    bos_added: bool,
    tokenizer_config: Mapping[str, Any],
    model_config: Mapping[str, Any],
) -> list[str]:
    """One sentence for each contradiction; published scoring code differs in which file it uses."""
    notes = list(_bos(special_tokens.get("bos_token"), template, bos_added, tokenizer_config))
    ids = {name: tokenizer.token_to_id(text) for name, text in special_tokens.items()}
    for name in ("bos_token", "eos_token", "pad_token"):
        notes += _id_note(name, ids.get(name), model_config)
    vocab_size, highest = model_config.get("vocab_size"), max(tokenizer.get_vocab().values(), default=-1)
    if isinstance(vocab_size, int) and highest >= vocab_size:
        notes.append(f"the tokenizer has ids up to {highest}, config.json's vocab_size is {vocab_size}")
    return notes


def _bos(token: str | None, template: str | None, added: bool, tokenizer_config: Mapping[str, Any]) -> Iterator[str]:
    stated = tokenizer_config.get("add_bos_token")
    if isinstance(stated, bool) and stated != added:
        verb = "adds" if added else "does not add"
        yield f"tokenizer_config.json has add_bos_token {str(stated).lower()}, tokenizer.json {verb} it"
    if token is not None and template is not None and added and ("bos_token" in template or token in template):
        where = f"the chat template writes {token!r}"
        yield f"{where}, as would the tokenizer; code that does both gets two, this bundle does not"


def _id_note(name: str, found: int | None, model_config: Mapping[str, Any]) -> list[str]:
    stated = model_config.get(f"{name}_id")
    accepted = stated if isinstance(stated, list) else [stated]
    if not model_config or found in accepted:
        return []
    return [f"config.json has {name}_id {stated}, the tokenizer's {name} is {found}"]
