"""The contract of a contestant: its input and its output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """What one user asks at once: `sequences` of token ids, and the same as `records` for contestants that encode."""

    sequences: Sequence[Sequence[int]]
    records: Sequence[Mapping[str, Any]] = ()

    @property
    def tokens(self) -> int:
        """Of all sequences, without sharing."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class Scores:
    """One score per sequence, requests in order; `computed` tokens, padding included; `split` seconds by part."""

    values: list[float]
    computed: int | None = None
    padded: int | None = None
    split: Mapping[str, float] | None = None


@dataclass(frozen=True)
class LoadOptions:
    """What the command line says to every contestant.

    `batch` is the most sequences a peer puts in one batch; `label` the row of a classifier's logits that is the score;
    `spare_id` a token that occurs in no sequence, for padding where a checkpoint names none; `cache` a folder for
    converted checkpoints; `longest` the tokens of the longest sequence that will be scored (0: not known).
    """

    device: str = "cpu"
    precision: str = "auto"
    batch: int = 8
    max_batch_tokens: int | None = None
    label: int = 0
    spare_id: int = 0
    cache: str | None = None
    longest: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


class Scorer(Protocol):
    """A loaded contestant.

    `budget` bounds what one pass of the server scenario takes, each request counting `weight`; `settings` is one line
    for the report. A server may also have `answer(request)`, which returns when it has scored that request and is
    called from many threads: the server scenario then sends requests as they arrive, and makes no passes.
    """

    precision: str
    settings: str
    budget: int

    def weight(self, request: Request) -> int: ...
    def score(self, requests: Sequence[Request]) -> Scores: ...
    def reset(self) -> None:
        """Forget what earlier passes left in caches: the same workload is scored again and again."""
        ...


class PeerModule(Protocol):
    """A module of rmexport.bench.peers; it imports nothing but the standard library and this package at its top.

    `PACKAGES` must be importable, `DISTRIBUTIONS` are reported with their versions, the first of `DTYPES` is the
    default, `HEADS` are those it can score (empty: any). It may also have `INSTALLED_AS`, the name of the environment
    of its packages (else NAME), and `environment(python, threads)`, the variables that its process starts with.
    """

    NAME: str
    PACKAGES: tuple[str, ...]
    DISTRIBUTIONS: tuple[str, ...]
    DTYPES: tuple[str, ...]
    HEADS: tuple[str, ...]

    def load(self, folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer: ...
