"""Text to token ids as transformers does it: the checkpoint's tokenizer.json, special tokens in text included."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import tokenizers

from rmruntime.errors import BundleError
from rmruntime.manifest import TOKENIZER_NAME, Format
from rmruntime.sequences import Ints


class Tokenizer:
    """The tokenizer in `folder`. It adds no token of its own, and neither truncates nor pads whatever the file says.

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
        """Ids [L] of `text`."""
        return self.encode_batch((text,))[0]

    def encode_batch(self, texts: Sequence[str]) -> list[Ints]:
        """Ids [L_i] of every text; several texts are encoded on several threads."""
        # "fast" leaves out the character offsets nobody asks for.
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def find_special(self, text: str) -> list[str]:
        """The special tokens that `text` spells, in order of appearance."""
        return self._special.findall(text)

    def text_of(self, token_id: int) -> str | None:
        """The token's text, or None where the tokenizer has no such id."""
        text: str | None = self._tokenizer.id_to_token(token_id)
        return text


@dataclass(frozen=True, kw_only=True)
class BosRule:
    """Executes `Format.bos`, on the text before it is tokenized and on the ids after.

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
            raise BundleError(f"format.bos_id: found {form.bos_id}, which {TOKENIZER_NAME} does not have")
        return cls(one=form.bos == "one", bos_id=form.bos_id, bos_text=text)

    def complete_text(self, text: str) -> str:
        """An already rendered text, with the BOS that this template would have written where it lacks it."""
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
    if not path.is_file():
        raise BundleError(f"{path} is missing; export the bundle again")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the binding raises bare Exception for whatever the file's fault is
        raise BundleError(f"{path} cannot be read by tokenizers {tokenizers.__version__} ({error})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
