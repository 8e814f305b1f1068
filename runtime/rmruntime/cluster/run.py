"""Scores files on a cluster into a folder of shards: starts a run, or continues an earlier run of the same plan."""

import json
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

from rmruntime import errors
from rmruntime.cluster.block_plan import Plan, differences, make_plan
from rmruntime.cluster.input_files import input_files
from rmruntime.cluster.journal import Journal, earlier_plan, open_journal, remove_earlier_run
from rmruntime.cluster.merge import align_columns, merge_shards
from rmruntime.cluster.options import ClusterOptions
from rmruntime.cluster.pool import Pool, pool_for
from rmruntime.cluster.scorer import ATTEMPTS, Job, Outcome, Task
from rmruntime.cluster.session import connected, import_ray, outcomes
from rmruntime.errors import ClusterError, OptionError, RewardModelError
from rmruntime.options import ScoreOptions
from rmruntime.records.distinct_files import check_distinct
from rmruntime.score_file import FileOptions, Summary

Progress = Callable[[int, int], object]  # called with the records that are done, and those in total


@dataclass(frozen=True, kw_only=True)
class ClusterRun:
    """The result of a run. `summary` is of all records; its seconds are those of this run's scoring.

    `earlier` is how many records earlier runs had scored. `machines` counts different host names. `start_seconds` is
    the time until the first worker had loaded the bundle; `died` counts workers that died while they had a block.
    """

    summary: Summary
    shards: int
    workers: int = 0
    machines: int = 0
    earlier: int = 0
    died: int = 0
    start_seconds: float = 0.0

    def text(self) -> str:
        """The lines printed at the end."""
        lines = [self.summary.text()]
        if self.workers:
            lines.append(
                f"{_many(self.workers, 'worker')} on {_many(self.machines, 'machine')}, "
                f"the first ready after {self.start_seconds:.2f} s; {_many(self.shards, 'shard')}"
            )
        if self.earlier:
            lines.append(f"{self.earlier} of the records were scored by earlier runs")
        if self.died:
            lines.append(f"{_many(self.died, 'worker')} died at work; other workers scored their blocks")
        return "\n".join(lines)


def score_on_cluster(
    bundle: str,
    files: FileOptions,
    options: ScoreOptions,
    cluster: ClusterOptions,
    progress: Progress | None = None,
) -> ClusterRun:
    """Score `files.input` (a file, a folder or a pattern) into shards in the folder `files.output`.

    `progress` is called with the records that are done and those in total, when the cluster has started and after each
    block. Raises ClusterError, and what scoring a file raises; blocks that are done by then stay, and the same call
    continues with the others.
    """
    import_ray()
    inputs, output = input_files(str(files.input)), _output_folder(files)
    _check_merge(cluster.merge)
    _check_inputs(inputs, output, cluster.merge)
    before = None if cluster.overwrite else earlier_plan(output)
    if before is not None and cluster.block_records is None:
        cluster = replace(cluster, block_records=before.block_records)
    plan = make_plan(Path(bundle), inputs, files, options, cluster)
    if cluster.overwrite:
        remove_earlier_run(output)
    _check_output(output, before, plan)
    journal = open_journal(output, plan)
    done = journal.done(plan)
    _check_skipped(output, done.values(), files)
    run = _Run(
        bundle=str(Path(bundle).resolve()),
        inputs=inputs,
        files=files,
        options=options,
        cluster=cluster,
        progress=progress,
    )
    try:
        report = _scored(run, plan, journal, done)
    finally:
        journal.sweep()
    _settle(plan, journal, cluster)
    return report


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The user's request, with paths that are valid on every machine."""

    bundle: str
    inputs: tuple[Path, ...]
    files: FileOptions
    options: ScoreOptions
    cluster: ClusterOptions
    progress: Progress | None


def _output_folder(files: FileOptions) -> Path:
    if files.rank is not None:
        raise OptionError("rank: found it for a cluster, which writes scores in the records' order; use one process")
    if files.output in (None, "-"):
        raise OptionError("output: found none, expected a folder for the shards that the workers write; give -o FOLDER")
    output = Path(str(files.output))
    if output.exists() and not output.is_dir():
        raise OptionError(f"{output}: found a file, expected a folder for the shards (--merge FILE makes one file too)")
    return output.resolve()


def _check_merge(target: str | None) -> None:
    """Raises OptionError, before anything is scored, where the merged file could not be written."""
    if target is not None and (not Path(target).parent.is_dir() or Path(target).is_dir()):
        raise OptionError(f"merge is {target!r}, expected the name of a file in a folder that exists")


def _check_inputs(inputs: Sequence[Path], output: Path, merge: str | None) -> None:
    """Raises OptionError where the shards or the merged file would overwrite the input."""
    for path in inputs:
        if output in path.parents:
            raise OptionError(
                f"output: {output} holds the input {path.name}, expected a folder of its own; give another with -o"
            )
        if merge is not None:
            check_distinct(path, merge)
    if merge is not None and output == Path(merge).resolve().parent and Path(merge).name.startswith("part-"):
        raise OptionError(
            f"merge is {merge!r}, expected a name that is no shard's; choose one that does not begin with part-"
        )


def _check_output(output: Path, before: Plan | None, plan: Plan) -> None:
    """Raises ClusterError unless the output folder is empty, or was left by an earlier run of the same plan."""
    if before is None and output.is_dir() and any(output.iterdir()):
        raise ClusterError(
            f"{output}: found files but no journal of a run, expected an empty folder or none; give another folder"
        )
    different = [] if before is None else list(differences(before, plan))
    if different:
        raise ClusterError(
            f"{output} has shards of another run: {'; '.join(different)}. Give that run's command to go on with it, "
            "--overwrite to begin anew, or another folder"
        )


def _check_skipped(output: Path, done: Iterable[Summary], files: FileOptions) -> None:
    skipped = sum(summary.errors for summary in done)
    if skipped and files.on_error == "stop":
        raise ClusterError(
            f"{output}: an earlier run with --on-error skip left {skipped} records without a score; go on with "
            "--on-error skip, or begin anew with --overwrite"
        )


def _scored(run: _Run, plan: Plan, journal: Journal, done: dict[int, Summary]) -> ClusterRun:
    """Score the blocks that are not done yet."""
    report = ClusterRun(
        summary=Summary(backend="", precision=""),
        shards=len(plan.blocks),
        earlier=sum(summary.records for summary in done.values()),
    )
    tasks = [
        Task(block=block, path=str(run.inputs[block.file]), shard=plan.shard(block))
        for block in plan.blocks
        if block.index not in done
    ]
    if tasks:
        report = _scored_tasks(run, plan, journal, tasks, done, report)
    return replace(report, summary=replace(_joined(done), seconds=report.summary.seconds))


def _scored_tasks(
    run: _Run, plan: Plan, journal: Journal, tasks: Sequence[Task], done: dict[int, Summary], report: ClusterRun
) -> ClusterRun:
    """Have the workers score the blocks of `tasks`; summaries of finished blocks are added to `done`."""
    with connected(run.cluster.address) as ray:
        _tell(run, plan, done)
        pool = pool_for(ray, run.files, run.cluster)
        job = _job(run, plan, journal, pool)
        report = replace(report, workers=min(pool.workers, len(tasks)))
        begin, hosts = time.perf_counter(), set[str]()
        for line in outcomes(ray, pool, job, tasks):
            outcome = Outcome(**json.loads(line))
            now = time.perf_counter() - begin
            if outcome.error is not None:
                raise _stopped(outcome, journal.output, len(done), len(plan.blocks))
            done[outcome.index] = Summary.decoded(outcome.summary or {})
            hosts.add(outcome.host)
            first = report.start_seconds or max(0.0, now - outcome.seconds)
            died = report.died + min(outcome.attempts, ATTEMPTS)
            report = replace(report, start_seconds=first, died=died)
            _tell(run, plan, done)
        seconds = time.perf_counter() - begin - report.start_seconds
    return replace(report, machines=len(hosts), summary=replace(report.summary, seconds=seconds))


def _tell(run: _Run, plan: Plan, done: dict[int, Summary]) -> None:
    if run.progress is not None:
        run.progress(sum(plan.blocks[index].count for index in done), plan.records)


def _job(run: _Run, plan: Plan, journal: Journal, pool: Pool) -> Job:
    return Job(
        bundle=run.bundle,
        manifest=plan.manifest,
        files=pool.files,
        options=run.options,
        journal=journal,
        load_attempts=ATTEMPTS * pool.workers,
    )


def _stopped(outcome: Outcome, output: Path, done: int, blocks: int) -> RewardModelError:
    """The worker's error, of its own class, with what is kept and how to go on."""
    kept = (
        f"{done} of {blocks} blocks are done and stay in {shlex.quote(str(output))}; the same command goes on with "
        "the others"
    )
    error: RewardModelError = getattr(errors, str(outcome.error))(f"{outcome.message}. {kept}")
    return error


def _joined(done: dict[int, Summary]) -> Summary:
    return reduce(lambda a, b: a + b, (done[index] for index in sorted(done)))


def _settle(plan: Plan, journal: Journal, cluster: ClusterOptions) -> None:
    """Align the shards' columns and write the merged file, once all blocks are done."""
    shards = [journal.output / plan.shard(block) for block in plan.blocks]
    if plan.shards == "parquet":
        done = journal.done(plan)
        for index in align_columns(shards):
            journal.finish(plan.blocks[index], shards[index], done[index])
    if cluster.merge is not None:
        merge_shards(shards, cluster.merge)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
