"""Makes the token ids of a profile's conversations, such that the bundle's head can score them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rmexport.bench.profiles import Draft, Segment
from rmexport.errors import OptionError
from rmruntime.bundle.manifest import TOKENIZER_NAME, Manifest, PositionRule

Ids = list[int]


@dataclass(frozen=True)
class Patterns:
    """Tokens that the head's position rules look for: `prompt` must end every prompt, `answer` every answer."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


class TokenSource:
    """Makes conversations of random ids, without special tokens, and with the tokens that the head looks for."""

    def __init__(self, manifest: Manifest, folder: Path, rng: np.random.Generator) -> None:
        self._patterns = patterns_of(manifest)
        self._limit, self._rng = manifest.backbone.max_length, rng
        self._ids = plain_ids(manifest, folder)

    def conversations(self, drafts: Sequence[Draft]) -> list[list[Ids]]:
        """For every draft the ids [L] of each of its conversations, prompt and answer.

        All lengths are scaled down where the longest conversation exceeds the bundle's limit.
        """
        known: dict[str, Ids] = {}
        return [self._answers(draft, known) for draft in self._fitted(drafts)]

    def _answers(self, draft: Draft, known: dict[str, Ids]) -> list[Ids]:
        prompt: Ids = []
        for i, segment in enumerate(draft.prompt):
            pattern = self._patterns.prompt if i == len(draft.prompt) - 1 else ()
            if segment.name not in known:
                known[segment.name] = self._ended(segment.length, pattern)
            prompt += known[segment.name]
        return [prompt + self._ended(length, self._patterns.answer) for length in draft.answers]

    def _ended(self, length: int, pattern: tuple[int, ...]) -> Ids:
        count = max(1, length - len(pattern))
        return [*(int(i) for i in self._rng.choice(self._ids, count)), *pattern]

    def _fitted(self, drafts: Sequence[Draft]) -> list[Draft]:
        longest = max(sum(s.length for s in d.prompt) + max(d.answers) for d in drafts)
        least = 2 + len(self._patterns.prompt) + len(self._patterns.answer)
        if self._limit < least:
            raise OptionError(
                f"this bundle takes {self._limit} tokens, a profile needs at least {least}: give a file of records "
                "(--workload)"
            )
        if longest + least <= self._limit:  # `least`, because short segments grow to hold their pattern
            return list(drafts)
        share = max(0.0, (self._limit - least) / longest)
        return [_scaled(draft, share) for draft in drafts]


def _scaled(draft: Draft, share: float) -> Draft:
    prompt = tuple(Segment(s.name, int(s.length * share)) for s in draft.prompt)
    return replace(draft, prompt=prompt, answers=tuple(int(length * share) for length in draft.answers))


def patterns_of(manifest: Manifest) -> Patterns:
    """The tokens that the manifest's position rules look for, each pattern once.

    >>> from types import SimpleNamespace
    >>> marker = PositionRule(rule="marker", tokens=(517,), text="+")
    >>> patterns_of(SimpleNamespace(positions={"score": marker}))
    Patterns(prompt=(), answer=(517,))
    """
    prompt = _joined(r for r in manifest.positions.values() if r.rule == "pattern_start")
    return Patterns(prompt, _joined(r for r in manifest.positions.values() if r.rule in ("marker", "before_marker")))


def _joined(rules: Iterable[PositionRule]) -> tuple[int, ...]:
    distinct = dict.fromkeys(rule.tokens for rule in rules)
    return tuple(token for tokens in distinct for token in tokens)


def plain_ids(manifest: Manifest, folder: Path) -> list[int]:
    """All token ids except for special tokens and those of the head's patterns; `folder` has the tokenizer's file.

    Raises OptionError where none is left.
    """
    patterns = patterns_of(manifest)
    rules = manifest.positions.values()
    special = {*patterns.prompt, *patterns.answer, manifest.format.bos_id, *(rule.pad_id for rule in rules)}
    added = json.loads((folder / TOKENIZER_NAME).read_text(encoding="utf-8")).get("added_tokens") or ()
    special |= {token["id"] for token in added if token.get("special")}
    ids = [i for i in range(manifest.backbone.vocab_size) if i not in special]
    if not ids:
        raise OptionError("this bundle's vocabulary holds special tokens only: give a file of records (--workload)")
    return ids
