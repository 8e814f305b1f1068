"""A model by its name: the bundle that answers now, and those that were replaced and still finish what they began."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Thread
from typing import Any

from rmruntime.bundle.manifest import Manifest, encode_manifest
from rmruntime.options import ScoreOptions
from rmruntime.records import parse_record
from rmruntime.reward_model import RewardModel
from rmruntime.sequences import TokenSequence
from rmruntime.serve.problems import Refused


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What answers say of the bundle and the engine that made them.

    `digest` is the manifest's, `engine` the backend's name, `precision` the arithmetic that runs and `dtype` the
    bundle's own. `max_length` is the limit of one sequence in tokens. `labels` are those of the rewards in their order,
    none for a lone score; `has_score` is False where there are labels only. `by_step`: answers have a score per step.
    `takes_text`: the record {"text": ...} can be scored. `created` is when it was loaded, in seconds since 1970.
    """

    name: str
    digest: str
    engine: str
    precision: str
    dtype: str
    max_length: int
    labels: tuple[str, ...]
    has_score: bool
    by_step: bool
    layout: str
    model_type: str
    architecture: str
    parameters: int
    source: str | None
    created: int

    @property
    def num_labels(self) -> int:
        """How many numbers a conversation has as classification servers count them."""
        return 1 if self.has_score else max(1, len(self.labels))


def facts_of(name: str, model: RewardModel) -> ModelFacts:
    """The facts of a loaded model, under the name that it is served as."""
    manifest = model.manifest
    return ModelFacts(
        name=name,
        digest=_digest(manifest),
        engine=model.backend,
        precision=model.precision,
        dtype=manifest.dtype,
        max_length=manifest.backbone.max_length,
        labels=next((output.labels for output in manifest.outputs if output.name == "rewards" and output.labels), ()),
        has_score=manifest.score is not None,
        by_step=manifest.format.unit == "step",
        layout=manifest.format.layout,
        model_type=manifest.backbone.model_type,
        architecture=manifest.backbone.architecture,
        parameters=manifest.backbone.parameters,
        source=manifest.source.repo,
        created=int(time.time()),
    )


def _digest(manifest: Manifest) -> str:
    return str(json.loads(encode_manifest(manifest))["digest"])


@dataclass(eq=False)
class Generation:
    """One loaded bundle under a name; `users` are the requests that it answers now."""

    model: RewardModel
    facts: ModelFacts
    users: int = 0
    retired: bool = False
    closed: bool = False


class ServedModel:
    """A name, and the bundle that answers to it, which `replace` exchanges. For the event loop's thread alone.

    Without a model it is loading, and whatever needs one is refused as "unavailable".
    """

    def __init__(self, name: str, model: RewardModel | None = None) -> None:
        self.name = name
        self._current: Generation | None = None
        if model is not None:
            self.replace(model)

    @property
    def is_loaded(self) -> bool:
        """Whether it can answer."""
        return self._current is not None

    @property
    def generation(self) -> Generation:
        """The bundle that answers now. Raises Refused ("unavailable") while none is loaded."""
        if self._current is None:
            raise Refused("unavailable", f"the model {self.name!r} is being loaded; try again", retry_after=1.0)
        return self._current

    @property
    def model(self) -> RewardModel:
        """The loaded bundle. Raises as `generation` does."""
        return self.generation.model

    @property
    def facts(self) -> ModelFacts:
        """Of the bundle that answers now. Raises as `generation` does."""
        return self.generation.facts

    @contextmanager
    def lease(self) -> Iterator[Generation]:
        """The bundle that answers now, which stays open until the context ends, also where it is replaced before."""
        generation = self.generation
        generation.users += 1
        try:
            yield generation
        finally:
            generation.users -= 1
            self.close_unused(generation)

    def replace(self, model: RewardModel) -> None:
        """Have another bundle answer from now on. The earlier one ends once it has answered what it was asked."""
        before, self._current = self._current, Generation(model, facts_of(self.name, model))
        if before is not None:
            before.retired = True
            self.close_unused(before)

    def tokenize(self, record: Mapping[str, Any], options: ScoreOptions | None = None) -> tuple[TokenSequence, ...]:
        """The token sequences of one of the CLI's records, as they are scored. Raises InputError."""
        [found] = self.model.encode([parse_record(record)], options or ScoreOptions())
        if isinstance(found, Exception):
            raise found
        return found

    @staticmethod
    def close_unused(generation: Generation) -> None:
        """Close a bundle that was replaced and has answered everything; on a thread, as an engine may take its time."""
        if generation.retired and not generation.users and not generation.closed:
            generation.closed = True
            Thread(target=generation.model.close, name="rmruntime-close").start()
