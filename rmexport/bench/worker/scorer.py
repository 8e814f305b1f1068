"""The interface of contestants: what a peer module must have, its input and its output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """The sequences that one user sends at once: token ids, and the same as `records` for contestants that tokenize."""

    sequences: Sequence[Sequence[int]]
    records: Sequence[Mapping[str, Any]] = ()

    @property
    def tokens(self) -> int:
        """The number of tokens in all sequences, shared prefixes counted each time."""
        return sum(map(len, self.sequences))


@dataclass(frozen=True)
class Scores:
    """One score per sequence, in the order of the requests.

    `computed` is how many tokens were computed, padding included, `padded` how many of them are padding; `split` is the
    time in seconds by part. None where the contestant does not know.
    """

    values: list[float]
    computed: int | None = None
    padded: int | None = None
    split: Mapping[str, float] | None = None


@dataclass(frozen=True)
class LoadOptions:
    """The options of the command line that contestants need.

    `batch` is the most sequences in a peer's batch; `max_batch_tokens` bounds the tokens of a bundle's pass; `label` is
    the index of the classifier's logit that is the score; `spare_id` is a token id that occurs in no sequence, for
    padding where a checkpoint has no pad token; `cache` is the folder for converted checkpoints; `longest` the
    number of tokens of the longest sequence that will be scored (0: not known).
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

    `precision` is its arithmetic, `settings` one line for the report. In the server scenario a pass takes requests
    whose `weight`s add up to at most `budget`, in a unit of the contestant's choice. A server may also have
    `answer(request)`, which returns when it has scored that request and is called from many threads: the server
    scenario then sends requests as they arrive, and makes no passes.
    """

    precision: str
    settings: str
    budget: int

    def weight(self, request: Request) -> int: ...
    def score(self, requests: Sequence[Request]) -> Scores: ...
    def reset(self) -> None:
        """Empty caches that earlier passes filled, because the same workload is scored many times."""
        ...


class PeerModule(Protocol):
    """What a module of rmexport.bench.peers must have; its top imports only the standard library and this package.

    `PACKAGES` are the modules that it needs, `DISTRIBUTIONS` are reported with their versions, the first of `DTYPES` is
    the default, `HEADS` are the heads that it can score (empty: any). A module may also have
    `prepare(folder, options)`, which converts the checkpoint and returns the folder to load; `INSTALLED_AS`, the
    name of the environment of its packages (else NAME); and `environment(python, threads)`, the variables that its
    process starts with.
    """

    NAME: str
    PACKAGES: tuple[str, ...]
    DISTRIBUTIONS: tuple[str, ...]
    DTYPES: tuple[str, ...]
    HEADS: tuple[str, ...]

    def load(self, folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer: ...
