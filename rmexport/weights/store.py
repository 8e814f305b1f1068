"""Stores a bundle's weights: whole files where nothing changes, streamed shards for the rest, all faults together."""

import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rmexport.checkpoint import Checkpoint
from rmexport.checkpoint.finite import Unstorable
from rmexport.checkpoint.origin import hub_sha256
from rmexport.errors import CheckpointError, WriteError
from rmexport.options import ExportOptions
from rmexport.weights.file_clone import link, reflink
from rmexport.weights.jobs import Job, run_jobs
from rmexport.weights.shard_journal import NOBODY, Entry, Reports, made_from
from rmexport.weights.shard_plan import Shard, plan_weights
from rmexport.weights.stream import Monitor, hash_file, stream_shard
from rmexport.weights.weight_spec import StoredWeights, WeightSpec
from rmruntime.bundle.manifest import FileRecord


def store_weights(
    checkpoint: Checkpoint,
    wanted: Sequence[WeightSpec],
    folder: Path,
    options: ExportOptions,
    reports: Reports = NOBODY,
) -> StoredWeights:
    """Write the weights `wanted` into `folder`, which must exist and holds no weights but those of its journal.

    Shards that need no change are linked, reflinked or copied as `options.weights` says; everything else is streamed
    into new ones. What the journal says is complete, made from the same files in the same way, is taken over. Memory
    stays at a few megabytes a worker, whatever the tensors' sizes.
    Raises CheckpointError for missing weights and, after all are read, for every tensor with NaN, Inf or values beyond
    the target's range; OptionError for what links cannot do; WriteError for too little space and failed writes.
    """
    plan = plan_weights(checkpoint, wanted, options)
    origins = {shard.name: made_from(checkpoint, shard, options) for shard in plan.shards}
    taken = reports.journal.take_over(origins, reports.notify)
    whole = _place_files(checkpoint, plan.shards, taken, folder, options)
    targets = _targets(checkpoint, plan.shards, taken, whole, folder, options)
    _check_space(folder, sum(shard.size for shard, path in targets if path is not None))
    reports.journal.begin(len(plan.shards))
    jobs = [_shard_job(checkpoint, shard, path, options, reports) for shard, path in targets]
    jobs += _source_jobs(checkpoint, plan.shards) if options.hash else []
    hashes = {name: entry.sha256 for name, entry in taken.items()} | _run(jobs, taken.values(), reports)
    _check_stated(checkpoint, [shard for shard in plan.shards if shard.name not in whole], hashes)
    files = tuple(_record(checkpoint, shard, folder, options, hashes.get(shard.name)) for shard in plan.shards)
    return StoredWeights(plan.locations, files, _sources(checkpoint, plan.shards, files, hashes))


def _place_files(
    checkpoint: Checkpoint, shards: Iterable[Shard], taken: Mapping[str, Entry], folder: Path, options: ExportOptions
) -> set[str]:
    """The names of the shards that were linked or reflinked."""
    there = {name for name, entry in taken.items() if entry.mtime_ns is not None}
    rest = [shard for shard in shards if shard.kept and shard.name not in there]
    return {shard.name for shard in rest if _place_whole(checkpoint, shard, folder, options)}


def _targets(
    checkpoint: Checkpoint,
    shards: Iterable[Shard],
    taken: Mapping[str, Entry],
    whole: Container[str],
    folder: Path,
    options: ExportOptions,
) -> list[tuple[Shard, Path | None]]:
    """What is still to do: shards to write, and with None those to read for their hash.

    A file that was not read is read where its hash is asked for and nobody else has stated it.
    """
    targets: list[tuple[Shard, Path | None]] = []
    for shard in shards:
        entry = taken.get(shard.name)
        if shard.name not in whole and (entry is None or entry.mtime_ns is None):
            targets.append((shard, folder / shard.name))
        elif entry is None and options.hash and not _stated_hash(checkpoint, shard):
            targets.append((shard, None))
    return targets


def _place_whole(checkpoint: Checkpoint, shard: Shard, folder: Path, options: ExportOptions) -> bool:
    source, target = checkpoint.folder / shard.name, folder / shard.name
    if options.weights == "link":
        link(source, target)
        return True
    return reflink(source, target)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteError(
            f"the weights need {needed:,} bytes more and {folder} has {free:,} free; free some space, choose another "
            "target, or use --weights link (safetensors on the checkpoint's own file system)"
        )


def _shard_job(
    checkpoint: Checkpoint, shard: Shard, path: Path | None, options: ExportOptions, reports: Reports
) -> Job:
    """Writes a shard to `path`, or only reads it, and enters it in the journal unless it holds what must not be."""
    origin = made_from(checkpoint, shard, options)

    def run(monitor: Monitor) -> str:
        sha256 = stream_shard(checkpoint, shard, path, monitor)
        if made_from(checkpoint, shard, options) != origin:
            raise CheckpointError(f"files of {checkpoint.folder} changed while they were read: export again")
        faulty = {tensor for tensor, _ in monitor.unstorable}
        if faulty.isdisjoint(source for piece in shard.pieces for source in piece.weight.sources):
            reports.journal.add(shard.name, origin, sha256, path)
        return sha256

    return Job(shard.name, shard.size, run)


def _source_jobs(checkpoint: Checkpoint, shards: Iterable[Shard]) -> list[Job]:
    """Reads files of the checkpoint whose hash nobody states, and that are no shards of the bundle."""
    kept = {shard.kept for shard in shards}
    unread = [file for file in checkpoint.source_files if file.sha256 is None and file.name not in kept]
    return [Job(_source_job(f.name), f.size, partial(hash_file, checkpoint.path(f.name))) for f in unread]


def _source_job(name: str) -> str:
    return f"source {name}"


def _run(jobs: Sequence[Job], taken: Iterable[Entry], reports: Reports) -> dict[str, str]:
    """The sha256 that each job returns, by name."""
    monitor = Monitor(reports.progress, done=sum(entry.size for entry in taken))
    monitor.start(sum(job.size for job in jobs))
    hashes = run_jobs(jobs, monitor)
    if monitor.unstorable:
        reports.journal.discard()
        raise CheckpointError(_unstorable_message(monitor.unstorable))
    return hashes


def _unstorable_message(found: Mapping[tuple[str, str], Unstorable]) -> str:
    lines = []
    for (tensor, target), counts in sorted(found.items()):
        parts = [f"{n} {kind}" for n, kind in ((counts.nan, "NaN"), (counts.inf, "Inf")) if n]
        if counts.beyond:
            parts.append(f"{counts.beyond} beyond the range of {target}, the largest {counts.largest:g}")
        lines.append(f"  {tensor}: {', '.join(parts)}")
    advice = []
    if any(counts.beyond for counts in found.values()):
        advice.append("Store the weights with a wider range: --dtype bf16 or --dtype fp32.")
    if any(counts.nan or counts.inf for counts in found.values()):
        advice.append(
            "Weights that are no numbers cannot be repaired: check the download, or how the model was trained."
        )
    return "weights that cannot be stored:\n" + "\n".join(lines) + "\n" + " ".join(advice)


def _stated_hash(checkpoint: Checkpoint, shard: Shard) -> str | None:
    return hub_sha256(checkpoint.folder / shard.kept) if shard.kept else None


def _check_stated(checkpoint: Checkpoint, written: Iterable[Shard], hashes: Mapping[str, str]) -> None:
    """A copied shard must be what the Hub's metadata says it is."""
    damaged = [s.name for s in written if (stated := _stated_hash(checkpoint, s)) and stated != hashes[s.name]]
    if damaged:
        raise CheckpointError(f"{', '.join(damaged)} differ from what the Hub states: delete and download them again")


def _record(
    checkpoint: Checkpoint, shard: Shard, folder: Path, options: ExportOptions, sha256: str | None
) -> FileRecord:
    found = (folder / shard.name).stat()
    return FileRecord(
        name=shard.name,
        size=found.st_size,
        role="weights",
        sha256=sha256 or _stated_hash(checkpoint, shard),
        mtime_ns=found.st_mtime_ns if shard.kept and options.weights == "link" else None,
    )


def _sources(
    checkpoint: Checkpoint, shards: Iterable[Shard], files: Iterable[FileRecord], hashes: Mapping[str, str]
) -> tuple[FileRecord, ...]:
    """The checkpoint's files, with the hashes that were learned; a kept shard's is that of its source."""
    learned = {shard.kept: record.sha256 for shard, record in zip(shards, files, strict=True) if shard.kept}
    return tuple(
        replace(f, sha256=f.sha256 or learned.get(f.name) or hashes.get(_source_job(f.name)))
        for f in checkpoint.source_files
    )
