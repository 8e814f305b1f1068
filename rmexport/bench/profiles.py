"""Seeded shapes of workloads: lengths in tokens and what is shared, no token ids yet; found by name."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Segment:
    """`length` tokens; segments of one name have the same tokens."""

    name: str
    length: int


@dataclass(frozen=True)
class Draft:
    """A request: `answers` to one prompt, in segments of tokens. A `pair` is a chosen and a rejected answer."""

    prompt: tuple[Segment, ...]
    answers: tuple[int, ...]
    pair: bool = False


class Profile(Protocol):
    """`drafts` must depend on `rng` alone."""

    def drafts(self, rng: np.random.Generator) -> list[Draft]: ...


def lone(name: str, length: int) -> Draft:
    """A conversation that shares nothing: half prompt, half answer."""
    return Draft((Segment(name, length // 2),), (length - length // 2,))


@dataclass(frozen=True)
class Ragged:
    """Conversations of these lengths."""

    lengths: tuple[int, ...]

    def drafts(self, rng: np.random.Generator) -> list[Draft]:
        return [lone(f"prompt {i}", length) for i, length in enumerate(self.lengths)]


@dataclass(frozen=True)
class BestOf:
    """Answers to one prompt."""

    prompt: int
    answers: int
    answer: int

    def drafts(self, rng: np.random.Generator) -> list[Draft]:
        return [Draft((Segment("prompt", self.prompt),), (self.answer,) * self.answers)]


@dataclass(frozen=True)
class Pairs:
    """Chosen and rejected answers; lengths uniform within (low, high), high included."""

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
    """Prompts under one system prompt, several answers to each."""

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
    """Half lone conversations of log-uniform length, a quarter pairs, a quarter several answers to one prompt."""

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
