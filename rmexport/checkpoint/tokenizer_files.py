"""Reads a checkpoint's tokenizer and chat template into one complete tokenizer.json and one template text."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rmexport.checkpoint.chat_template_files import FoundTemplate, find_template
from rmexport.checkpoint.config_fields import read_json_object
from rmexport.checkpoint.special_tokens import add_missing_tokens, read_stated_tokens
from rmexport.checkpoint.tokenizer_notes import disagreements
from rmexport.errors import CheckpointError
from rmruntime.bundle.manifest import TOKENIZER_NAME
from rmruntime.text.tokenizer_file import TokenizerFault, open_tokenizer

TOKENIZER_CONFIG = "tokenizer_config.json"
# Files with a vocabulary, for checkpoints without tokenizer.json.
_VOCABULARIES = ("*.model", "*.tiktoken", "vocab.json", "vocab.txt")
_READ = (
    TOKENIZER_NAME,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class TokenizerFiles:
    """A checkpoint's tokenizer, as a bundle needs it.

    `special_tokens` maps bos_token, eos_token, pad_token, unk_token, ... to their texts. `bos_added_by_tokenizer` tells
    whether tokenizer.json's own post-processor puts bos_token in front. `notes` tell where the files contradict.
    """

    tokenizer_json: bytes
    template: str | None
    special_tokens: Mapping[str, str]
    bos_added_by_tokenizer: bool
    notes: tuple[str, ...]


def read_tokenizer(
    folder: Path, *, model_config: Mapping[str, Any] | None = None, template: FoundTemplate | None = None
) -> TokenizerFiles:
    """The tokenizer in `folder`, with every token that its configuration adds, and without truncation or padding.

    A tokenizer without tokenizer.json is converted (extra `rmexport[convert]`). `model_config` and `template` replace
    the folder's own. Raises CheckpointError when there is no tokenizer or it is damaged.
    """
    config = _optional(folder / TOKENIZER_CONFIG)
    raw = _tokenizer_json(folder)
    tokenizer = _parse(folder, raw)
    stated = read_stated_tokens(folder, config)
    before = tokenizer.to_str()
    id_notes = add_missing_tokens(tokenizer, stated.added)
    tokenizer.no_truncation()  # the runtime truncates, and reports it
    tokenizer.no_padding()
    after = tokenizer.to_str()
    template = template or find_template(folder, config)
    bos_added = _adds_first(tokenizer, stated.named.get("bos_token"))
    if model_config is None:
        model_config = _optional(folder / "config.json")
    notes = disagreements(tokenizer, stated.named, template.text, bos_added, config, model_config)
    return TokenizerFiles(
        tokenizer_json=raw if after == before else after.encode(),
        template=template.text,
        special_tokens=stated.named,
        bos_added_by_tokenizer=bos_added,
        notes=(*id_notes, *template.notes, *notes),
    )


def read_adapter_tokenizer(folder: Path, base: Path, model_config: Mapping[str, Any]) -> TokenizerFiles:
    """The tokenizer of an adapter: from its own `folder`, else from its base; likewise the chat template.

    Raises as `read_tokenizer`.
    """
    own = find_template(folder, _optional(folder / TOKENIZER_CONFIG))
    tokenizer = folder if has_tokenizer(folder) else base
    if own.text is not None:
        return read_tokenizer(tokenizer, model_config=model_config, template=own)
    inherited = find_template(base, _optional(base / TOKENIZER_CONFIG))
    if tokenizer == folder and inherited.text is not None:
        note = "the adapter's folder has a tokenizer and no chat template: its base's is used"
        inherited = replace(inherited, notes=(*inherited.notes, note))
    return read_tokenizer(tokenizer, model_config=model_config, template=inherited)


def has_tokenizer(folder: Path) -> bool:
    """Whether `read_tokenizer` finds a vocabulary in `folder`.

    >>> has_tokenizer(Path())
    False
    """
    return (folder / TOKENIZER_NAME).is_file() or bool(_vocabularies(folder))


def present_files(folder: Path) -> list[str]:
    """The names of the files in `folder` that `read_tokenizer` reads.

    >>> _ = Path("tokenizer.json").write_text("{}")
    >>> present_files(Path())
    ['tokenizer.json']
    """
    read = [name for name in _READ if (folder / name).is_file()]
    return read if TOKENIZER_NAME in read else [*read, *_vocabularies(folder)]


def _tokenizer_json(folder: Path) -> bytes:
    if (folder / TOKENIZER_NAME).is_file():
        try:
            return (folder / TOKENIZER_NAME).read_bytes()
        except OSError as error:
            raise CheckpointError(
                f"{folder / TOKENIZER_NAME} cannot be read: {error.strerror}; see to its permissions or disk"
            ) from error
    if not _vocabularies(folder):
        raise CheckpointError(
            f"{folder} has no tokenizer: neither {TOKENIZER_NAME} nor any of {', '.join(_VOCABULARIES)}. "
            "Copy the tokenizer files of the model that it was trained from into the folder"
        )
    from rmexport.checkpoint.convert_tokenizer import convert_tokenizer  # imports transformers

    return convert_tokenizer(folder)


def _vocabularies(folder: Path) -> list[str]:
    return sorted(path.name for pattern in _VOCABULARIES for path in folder.glob(pattern))


def _parse(folder: Path, raw: bytes) -> Tokenizer:
    try:
        return open_tokenizer(raw)
    except TokenizerFault as error:
        raise CheckpointError(
            f"{folder / TOKENIZER_NAME} is damaged ({error}); restore it from the original checkpoint"
        ) from error


def _adds_first(tokenizer: Tokenizer, token: str | None) -> bool:
    """Whether encoding puts `token` in front of a text that does not have it."""
    first = None if token is None else tokenizer.token_to_id(token)
    with_added = tokenizer.encode("a", add_special_tokens=True).ids
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    return first is not None and with_added[:1] == [first] and plain[:1] != [first]


def _optional(path: Path) -> dict[str, object]:
    return read_json_object(path) if path.is_file() else {}
