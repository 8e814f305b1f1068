"""`rmexport verify --golden`: a bundle's scores against those that its publisher, or its own library, has printed.

They tell that the weights are read with the published text: another template moves such scores by whole units, other
arithmetic by parts of one. Needs neither the checkpoint nor PyTorch.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rmexport.errors import OptionError
from rmruntime import RewardModel
from rmruntime.bundle.strict_json import decode_dataclass
from rmruntime.options import EngineOptions

# How far raw scores may be from published ones, which were computed in a dtype, or by an engine that is less precise.
TOLERANCES: Mapping[str, float] = {"fp32": 1e-3, "fp16": 0.25, "bf16": 0.5}


@dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """A query and documents whose scores are published: raw ones, log-odds where the score is a probability.

    `source` says where they stand, `dtype` what they were computed in, as far as that is told.
    """

    repos: tuple[str, ...]
    source: str
    dtype: Literal["fp32", "fp16", "bf16"]
    query: str
    documents: tuple[str, ...]
    instruction: str | None = None
    expected: tuple[float, ...]

    def record(self) -> dict[str, Any]:
        """As `score` takes it."""
        return {"query": self.query, "documents": self.documents, "instruction": self.instruction}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A document's score and the published one; `allowed` is how far apart they may be."""

    query: str
    document: str
    published: float
    found: float
    allowed: float
    source: str

    @property
    def passed(self) -> bool:
        """Whether they agree."""
        return abs(self.found - self.published) <= self.allowed


@dataclass(frozen=True, kw_only=True)
class GoldenReport:
    """All comparisons of one repository's scores."""

    repo: str
    backend: str
    precision: str
    comparisons: tuple[Comparison, ...]

    @property
    def passed(self) -> bool:
        """Whether all agree."""
        return all(one.passed for one in self.comparisons)

    def text(self) -> str:
        """A table, one line per document."""
        lines = [f"{self.repo} on {self.backend} in {self.precision}, raw scores:"]
        for one in self.comparisons:
            mark = "ok  " if one.passed else "FAIL"
            apart = f"{abs(one.found - one.published):.4f} apart (at most {one.allowed:g})"
            lines.append(f"{mark} {one.found:9.4f}, published {one.published:9.4f}, {apart}: {one.document:.60}")
        sources = dict.fromkeys(one.source for one in self.comparisons)
        return "\n".join([*lines, *(f"source: {source}" for source in sources), "passed" if self.passed else "failed"])

    def json(self) -> str:
        """The same as JSON."""
        own = {"passed": self.passed, "repo": self.repo, "backend": self.backend, "precision": self.precision}
        return json.dumps(own | {"comparisons": [asdict(one) for one in self.comparisons]}, indent=1)


@cache
def published_scores() -> tuple[PublishedScores, ...]:
    """All of them.

    >>> published_scores()[0].dtype
    'fp32'
    """
    data = json.loads((files("rmexport") / "verify" / "published_scores.json").read_text())
    return tuple(decode_dataclass(PublishedScores, one, where=f"published_scores[{i}]") for i, one in enumerate(data))


def compare_published(bundle: str | Path, repo: str, engine: EngineOptions) -> GoldenReport:
    """Score the published records of `repo` with the bundle; "" is the repository that it was exported from.

    Raises OptionError where none are known, and what loading and scoring raise.
    """
    with RewardModel.load(bundle, engine) as model:
        repo = repo or model.manifest.source.repo or ""
        known = [one for one in published_scores() if repo in one.repos]
        if not known:
            names = ", ".join(dict.fromkeys(name for one in published_scores() for name in one.repos))
            found = repr(repo) if repo else "a bundle of a local folder"
            raise OptionError(f"golden: found {found}, scores are published of {names}; name one with --golden REPO")
        compared = tuple(line for one in known for line in _compared(model, one))
        return GoldenReport(repo=repo, backend=model.backend, precision=model.precision, comparisons=compared)


def _compared(model: RewardModel, one: PublishedScores) -> list[Comparison]:
    [scores] = model.score([one.record()])
    assert isinstance(scores, list)  # of documents it always is
    raw = [score.value if score.logit is None else score.logit for score in scores]
    allowed = max(TOLERANCES[one.dtype], TOLERANCES[model.precision])
    return [
        Comparison(
            query=one.query,
            document=document,
            published=published,
            found=float("nan") if found is None else found,
            allowed=allowed,
            source=one.source,
        )
        for document, published, found in zip(one.documents, one.expected, raw, strict=True)
    ]
