"""Text to token ids as transformers does it: the checkpoint's tokenizer.json, special tokens in text included."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers

from rmruntime.bundle.bundle import TOKENIZER_LIMIT
from rmruntime.bundle.manifest import TOKENIZER_NAME, Format
from rmruntime.bundle.regular_files import read_regular
from rmruntime.errors import BundleError, InputError
from rmruntime.sequences import Ints
from rmruntime.text.tokenizer_file import TokenizerFault, open_tokenizer, panics_caught


class Tokenizer:
    """The tokenizer in `folder`. It adds no special tokens, and neither truncates nor pads, whatever its file says.

    `special_texts` are the texts of its special tokens: text that spells one becomes that token, as in transformers.
    Raises BundleError when the file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load(folder / TOKENIZER_NAME)
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_texts: tuple[str, ...] = tuple(token.content for token in added.values() if token.special)
        # Longest first: among tokens that begin alike, the tokenizer takes the longest.
        longest_first = sorted(filter(None, self.special_texts), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def encode(self, text: str) -> Ints:
        """Ids [L] of `text`. Raises InputError for a text that it cannot encode."""
        [ids] = self.encode_batch((text,))
        if isinstance(ids, InputError):
            raise ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[Ints | InputError]:
        """Ids [L_i] of every text, or the error of one that it cannot encode; several texts use several threads."""
        try:
            return list(self._encode(texts))
        except TokenizerFault as error:
            if len(texts) > 1:  # it is not known which text failed
                return [found for text in texts for found in self.encode_batch((text,))]
            return [InputError(f"the tokenizer cannot encode this text ({error}); change or leave out the text")]

    def _encode(self, texts: Sequence[str]) -> list[Ints]:
        # "fast" leaves out the character offsets nobody asks for.
        with panics_caught():
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, stop) of each token of `text`, which `encode` has taken."""
        with panics_caught():
            found: list[tuple[int, int]] = self._tokenizer.encode(text, add_special_tokens=False).offsets
        return found

    def find_special(self, text: str) -> list[str]:
        """The special tokens that `text` spells, in order of appearance."""
        return self._special.findall(text)

    def text_of(self, token_id: int) -> str | None:
        """The token's text, or None where the tokenizer has no such id."""
        text: str | None = self._tokenizer.id_to_token(token_id)
        return text

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens included. Raises InputError for what are no ids of a tokenizer."""
        try:
            with panics_caught():
                text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        except (TokenizerFault, OverflowError) as error:
            raise InputError(f"the tokenizer cannot decode these ids ({error}); give ids of this tokenizer") from error
        return text


def ids_between(
    encode: Callable[[str], Sequence[int]], text: str, before: str = "", after: str = ""
) -> tuple[int, ...] | None:
    """The ids that `text` has between two other texts, which may differ from those that it has alone.

    None where one token covers characters of `text` and of a neighbour, so that `text` has no ids of its own.

    >>> ids_between(lambda text: [ord(letter) for letter in text], "b", before="a", after="c")
    (98,)
    """
    first, up_to, whole = (list(encode(part)) for part in (before, before + text, before + text + after))
    apart = up_to[: len(first)] == first and whole[: len(up_to)] == up_to
    return tuple(up_to[len(first) :]) if apart else None


@dataclass(frozen=True, kw_only=True)
class BosRule:
    """Executes the policy `Format.bos`, on the text before it is tokenized and on the ids afterwards.

    "one" and "zero" first delete every occurrence of the BOS text from the rendered conversation, so also where a
    message spells it. That is what the scoring code these policies come from does (MAHALO's hv_eval.py, RLHFlow's
    Bradley-Terry and pair models: `text.replace(tokenizer.bos_token, "")`). A checkpoint scored straight through its
    template has the policy "as-is", where a BOS spelled in a message stays a BOS, as in transformers.
    """

    one: bool = False
    bos_id: int | None = None
    bos_text: str | None = None
    rendered_prefix: str = ""

    @classmethod
    def from_format(cls, form: Format, tokenizer: Tokenizer) -> Self:
        """The rule of `form`; raises BundleError where its BOS is missing or unknown to the tokenizer."""
        if form.bos == "as-is":
            known = tokenizer.text_of(form.bos_id) if form.text_bos and form.bos_id is not None else None
            return cls(rendered_prefix=known or "")
        if form.bos_id is None:
            if form.bos == "one":
                raise BundleError("format.bos is 'one' without a bos_id; export the bundle again")
            return cls()
        text = tokenizer.text_of(form.bos_id)
        if text is None:
            raise BundleError(
                f"format.bos_id: found {form.bos_id}, expected an id that {TOKENIZER_NAME} has; export the bundle again"
            )
        return cls(one=form.bos == "one", bos_id=form.bos_id, bos_text=text)

    def complete_text(self, text: str) -> str:
        """An already rendered text, with the BOS in front that the chat template writes, where the text lacks it."""
        return text if text.startswith(self.rendered_prefix) else self.rendered_prefix + text

    def clean_text(self, text: str) -> str:
        """The rendered text without the BOS texts that "one" and "zero" delete."""
        return text if self.bos_text is None else text.replace(self.bos_text, "")

    def apply(self, ids: Ints) -> Ints:
        """Ids [L'] that begin with exactly one BOS ("one"), with none ("zero"), or as they were ("as-is")."""
        if self.bos_id is None:
            return ids
        others = np.flatnonzero(ids != self.bos_id)
        body = ids[others[0] :] if len(others) else ids[:0]
        return np.concatenate((np.array([self.bos_id], dtype=np.int64), body)) if self.one else body


def _load(path: Path) -> tokenizers.Tokenizer:
    try:
        tokenizer = open_tokenizer(read_regular(path, TOKENIZER_LIMIT))
    except FileNotFoundError:
        raise BundleError(f"{path} is missing; export the bundle again") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}); export the bundle again") from error
    except TokenizerFault as error:
        raise BundleError(
            f"{path} cannot be read by tokenizers {tokenizers.__version__} ({error}); upgrade tokenizers, or export "
            "the bundle again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
