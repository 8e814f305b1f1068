"""Profiles of made-up workloads: lengths of conversations in tokens, and the parts they share; no token ids yet."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Segment:
    """A part of a prompt of `length` tokens; segments with the same name have the same tokens."""

    name: str
    length: int


@dataclass(frozen=True)
class Draft:
    """A request: a prompt in segments, and the lengths of the `answers` to it; a `pair` is chosen, then rejected."""

    prompt: tuple[Segment, ...]
    answers: tuple[int, ...]
    pair: bool = False


class Profile(Protocol):
    """A kind of workload; `drafts` returns its requests, and must depend on nothing but `rng`."""

    def drafts(self, rng: np.random.Generator) -> list[Draft]: ...


def lone(name: str, length: int) -> Draft:
    """A conversation of `length` tokens that shares nothing: half prompt, half answer.

    >>> lone("prompt 0", 64)
    Draft(prompt=(Segment(name='prompt 0', length=32),), answers=(32,), pair=False)
    """
    return Draft((Segment(name, length // 2),), (length - length // 2,))


@dataclass(frozen=True)
class Ragged:
    """One conversation of each of these lengths, without shared prefixes.

    >>> [draft.answers for draft in Ragged((256, 64)).drafts(np.random.default_rng(0))]
    [(128,), (32,)]
    """

    lengths: tuple[int, ...]

    def drafts(self, rng: np.random.Generator) -> list[Draft]:
        return [lone(f"prompt {i}", length) for i, length in enumerate(self.lengths)]


@dataclass(frozen=True)
class BestOf:
    """`answers` answers of `answer` tokens each to one prompt of `prompt` tokens.

    >>> BestOf(prompt=512, answers=2, answer=64).drafts(np.random.default_rng(0))
    [Draft(prompt=(Segment(name='prompt', length=512),), answers=(64, 64), pair=False)]
    """

    prompt: int
    answers: int
    answer: int

    def drafts(self, rng: np.random.Generator) -> list[Draft]:
        return [Draft((Segment("prompt", self.prompt),), (self.answer,) * self.answers)]


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected answers; lengths are uniform between low and high, both included."""

    pairs: int
    prompt: tuple[int, int]
    answer: tuple[int, int]

    def drafts(self, rng: np.random.Generator) -> list[Draft]:
        return [self._pair(f"prompt {i}", rng) for i in range(self.pairs)]

    def _pair(self, name: str, rng: np.random.Generator) -> Draft:
        prompt, chosen, rejected = (
            int(rng.integers(low, high + 1)) for low, high in (self.prompt, self.answer, self.answer)
        )
        return Draft((Segment(name, prompt),), (chosen, rejected), pair=True)


@dataclass(frozen=True)
class Tree:
    """Prompts after one system prompt, with several answers to each."""

    system: int
    prompts: int
    prompt: int
    answers: int
    answer: int

    def drafts(self, rng: np.random.Generator) -> list[Draft]:
        system = Segment("system", self.system)
        return [
            Draft((system, Segment(f"prompt {i}", self.prompt)), (self.answer,) * self.answers)
            for i in range(self.prompts)
        ]


@dataclass(frozen=True)
class Mixed:
    """Half single conversations, a quarter pairs, a quarter several answers to one prompt; lengths are log-uniform."""

    requests: int
    length: tuple[int, int]
    answers: int

    def drafts(self, rng: np.random.Generator) -> list[Draft]:
        return [self._draft(i, rng) for i in range(self.requests)]

    def _draft(self, number: int, rng: np.random.Generator) -> Draft:
        low, high = np.log(self.length)
        prompt, *answers = (int(np.exp(rng.uniform(low, high))) // 2 for _ in range(1 + self.answers))
        segments = (Segment(f"prompt {number}", prompt),)
        kind = number % 4
        return Draft(segments, tuple(answers[: (1, 2, 1, self.answers)[kind]]), pair=kind == 1)


PROFILES: dict[str, Profile] = {
    "ragged": Ragged((256, 200, 130, 64)),
    "best-of-8": BestOf(prompt=512, answers=8, answer=64),
    "pairs": Pairs(pairs=64, prompt=(40, 400), answer=(20, 300)),
    "tree": Tree(system=200, prompts=3, prompt=60, answers=5, answer=64),
    "single": Ragged((64,) * 16),
    "mixed": Mixed(requests=32, length=(32, 1024), answers=4),
}
