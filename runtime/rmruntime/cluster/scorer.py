"""The code that runs on a worker: loads the bundle once, then scores blocks, each into a shard of its own.

Only unexpected errors are raised through Ray; our own errors are returned as an outcome, with their class.
"""

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rmruntime.backends import backends, choose_engine
from rmruntime.bundle import Bundle
from rmruntime.cluster.block_plan import bundle_digest
from rmruntime.cluster.blocks import Block, read_block
from rmruntime.cluster.journal import Journal
from rmruntime.errors import BackendError, BundleError, ClusterError, InputError, RewardModelError
from rmruntime.options import ScoreOptions
from rmruntime.records.writer import open_writer
from rmruntime.reward_model import RewardModel
from rmruntime.score_file import FileOptions, Summary, load_model, score_records
from rmruntime.version import __version__

ATTEMPTS = 3  # workers that may die of one block before the block itself is given up


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all workers of a run share."""

    bundle: str
    manifest: str
    files: FileOptions
    options: ScoreOptions
    journal: Journal
    load_attempts: int
    version: str = __version__


@dataclass(frozen=True, kw_only=True)
class Task:
    """One block, the file that it is in, and the name of its shard."""

    block: Block
    path: str
    shard: str

    def encoded(self) -> str:
        """JSON, as Ray carries it."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a block: a summary, or the class and the text of an error. `attempts` counts dead workers."""

    index: int
    host: str
    seconds: float
    attempts: int = 0
    summary: dict[str, Any] | None = None
    error: str | None = None
    message: str = ""


class BlockScorer:
    """The actor of one device. Ray Data calls it with a batch of one row."""

    def __init__(self, job: Job) -> None:
        self._job, self._host = job, platform.node()
        self._model: RewardModel | None = None
        self._reason = ""

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """An outcome for the task in the row."""
        fields = json.loads(str(batch["task"][0]))
        task = Task(block=Block(**fields.pop("block")), **fields)
        begin = time.perf_counter()
        outcome = Outcome(index=task.block.index, host=self._host, seconds=0.0)
        try:
            if self._model is None:
                self._model = self._loaded()
                begin = time.perf_counter()
            outcome = self._scored(self._model, task, outcome)
        except RewardModelError as error:
            outcome = replace(outcome, error=type(error).__name__, message=str(error))
        return {"outcome": [json.dumps(asdict(replace(outcome, seconds=time.perf_counter() - begin)))]}

    def _loaded(self) -> RewardModel:
        """The bundle, after a check that this machine sees the files that the driver saw."""
        job = self._job
        if job.version != __version__:
            raise ClusterError(
                f"{self._host} has rmruntime {__version__}, the command was given to {job.version}; "
                "install one version on all machines"
            )
        job.journal.check_run(self._host)
        self._check_bundle()
        deaths = job.journal.begin_load()
        if deaths >= job.load_attempts:
            raise ClusterError(
                f"{self._host}: workers have ended {deaths} times while they loaded {job.bundle}; see whether it fits "
                "into the memory of a machine as often as workers share one (--workers, --threads)"
            )
        try:
            files, self._reason = _agreed(job)
            model = load_model(job.bundle, files)
        except RewardModelError as error:
            raise type(error)(f"on {self._host}: {error}") from error
        job.journal.loaded()
        job.journal.claim_engine(f"{model.backend} in {model.precision}", self._host)
        return model

    def _check_bundle(self) -> None:
        try:
            found = bundle_digest(Path(self._job.bundle))
        except BundleError as error:
            raise BundleError(f"on {self._host}: {error}; every machine must see the bundle under this path") from error
        if found != self._job.manifest:
            raise BundleError(f"on {self._host}: {self._job.bundle} is another bundle than where the run was started")

    def _scored(self, model: RewardModel, task: Task, outcome: Outcome) -> Outcome:
        journal, block = self._job.journal, task.block
        journal.check_run(self._host)
        finished = journal.finished(block, journal.output / task.shard)
        if finished is not None:  # the worker that scored it died before it could say so
            return replace(outcome, summary=asdict(finished))
        outcome = replace(outcome, attempts=journal.begin(block))
        summary = self._write_shard(model, task, outcome.attempts)
        journal.finish(block, journal.output / task.shard, summary)
        return replace(outcome, summary=asdict(summary))

    def _write_shard(self, model: RewardModel, task: Task, attempts: int) -> Summary:
        journal, on_error = self._job.journal, self._job.files.on_error
        records = read_block(task.block, Path(task.path))
        deadly = None if attempts < ATTEMPTS else ClusterError(_deadly(task, attempts))
        if deadly and on_error == "stop":
            raise ClusterError(f"{deadly} (--on-error skip goes on with the others)")
        with open_writer(journal.output / task.shard) as writer:
            if deadly:
                records = ((number, _given_up(request, deadly)) for number, request in records)
            summary = score_records(model, records, writer, self._job.options, on_error=on_error)
            journal.check_run(self._host)
        return replace(summary, reason=self._reason)


def _agreed(job: Job) -> tuple[FileOptions, str]:
    """The options with the engine that the run's first worker chose, and why it is that one.

    What a machine would choose depends on its processor and its free memory; scores should not. Where the machine
    cannot run that engine it keeps its own choice, which `Journal.claim_engine` then refuses.
    """
    files, bundle = job.files, Bundle.open(Path(job.bundle))
    options, staged = files.engine, files.engine.stages_in_turn
    preferred = choose_engine(bundle, options, staged=staged)
    if options.device in backends():
        return files, preferred.reason
    agreed = job.journal.agree_on_engine(preferred.module.NAME)
    if agreed != preferred.module.NAME:
        try:
            choose_engine(bundle, replace(options, device=agreed), staged=staged)
        except BackendError:
            agreed = preferred.module.NAME
    reason = preferred.reason if agreed == preferred.module.NAME else "the first worker of the run chose it"
    return replace(files, engine=replace(options, device=agreed)), reason


def _deadly(task: Task, attempts: int) -> str:
    block = task.block
    return f"{Path(task.path).name}: block {block.index} ({block.records}) ended its worker {attempts} times"


def _given_up(request: Any, reason: ClusterError) -> InputError:
    """The record's own error where it has one, else that of its block."""
    if isinstance(request, InputError):
        return request
    error = InputError(str(reason))
    error.record_id = request.id
    return error
