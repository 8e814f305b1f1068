"""The journal of a run, in `_journal` inside the output folder: its plan, the blocks that are done, and who writes now.

A block is done when it has an entry and its shard has the size that the entry states; both are written under a
temporary name and renamed, the shard first. So a killed run leaves no half-written block, at worst one that is scored
again. Every run writes its own name into `run.json`, and a worker whose run is no longer named there writes nothing.
"""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rmruntime.cluster.block_plan import Plan, decoded_plan
from rmruntime.cluster.blocks import Block
from rmruntime.errors import ClusterError
from rmruntime.records.pending_file import partial_path
from rmruntime.score_file import Summary

FOLDER = "_journal"


@dataclass(frozen=True, kw_only=True)
class Journal:
    """`output` is the folder of the shards, `run` the name of the run that writes."""

    output: Path
    run: str

    @property
    def folder(self) -> Path:
        """The folder of the entries; readers of a folder of tables ignore names that begin with an underscore."""
        return self.output / FOLDER

    def check_run(self, host: str) -> None:
        """Raises ClusterError where this machine (`host`) does not see the folder, or another run writes there now."""
        try:
            ours = self._is_ours()
        except OSError as error:
            raise ClusterError(
                f"{self.output} is not seen on {host} ({error.strerror}); every machine must see the output folder "
                "under this path"
            ) from error
        if not ours:
            raise ClusterError(
                f"{self.output}: another run has begun to write there, so this one has ended; let the other finish, or "
                "give this run another folder"
            )

    def agree_on_engine(self, name: str) -> str:
        """The backend that the first worker of this output chose, in this run or an earlier one.

        `name` is this worker's own choice, which is returned where it is the first.
        """
        claimed = sorted(path.name for path in self.folder.glob("engine-*"))
        if claimed:  # "engine-NAME-in-3-stages-in-turn-in-PRECISION"
            return claimed[0].removeprefix("engine-").partition("-in-")[0]
        path = self.folder / "engine"
        with _written(path) as partial:
            partial.write_text(name)
            try:
                os.link(partial, path)  # whole, and only where there is none
            except FileExistsError:
                pass
            except OSError:  # a file system without links; `claim_engine` notices two workers at the same moment
                partial.replace(path)
            return path.read_text()

    def claim_engine(self, engine: str, host: str) -> None:
        """Check that all scores of the output come from this engine. Raises ClusterError for another."""
        mine = self.folder / f"engine-{engine.replace(' ', '-')}"
        with _reported(mine):
            new = not mine.exists()
            mine.touch()
            others = [path.name for path in self.folder.glob("engine-*") if path.name != mine.name]
            if not others:
                return
            if new:
                mine.unlink(missing_ok=True)
        raise ClusterError(
            f"{host} would score on {engine}, and other records of {self.output} are scored on "
            f"{others[0].removeprefix('engine-').replace('-in-', ' in ')}; choose one engine that all machines have, "
            "with --device and --precision, or begin anew with --overwrite"
        )

    def begin_load(self) -> int:
        """Count an attempt to load the bundle; returns the number of earlier attempts since one succeeded."""
        return _counted(self.folder / "started-loading")

    def loaded(self) -> None:
        """Forget the attempts to load."""
        (self.folder / "started-loading").unlink(missing_ok=True)

    def begin(self, block: Block) -> int:
        """Count an attempt at a block; returns the number of earlier attempts in this run."""
        return _counted(self._started(block))

    def finish(self, block: Block, shard: Path, summary: Summary) -> None:
        """Record that a block's shard is written."""
        path = self._done(block)
        with _written(path) as partial:
            partial.write_text(json.dumps({"bytes": shard.stat().st_size, "summary": asdict(summary)}))
            partial.replace(path)

    def done(self, plan: Plan) -> dict[int, Summary]:
        """Summaries of the blocks that are done, by index."""
        found = {block.index: self.finished(block, self.output / plan.shard(block)) for block in plan.blocks}
        return {index: summary for index, summary in found.items() if summary is not None}

    def finished(self, block: Block, shard: Path) -> Summary | None:
        """The summary of a block that is done, else None."""
        entry = _read(self._done(block))
        whole = entry is not None and shard.is_file() and shard.stat().st_size == entry["bytes"]
        return Summary.decoded(entry["summary"]) if whole else None

    def sweep(self) -> None:
        """Remove the files of workers that were killed, and counts of attempts; nothing of a run that took over."""
        with _reported(self.folder):
            if not self._is_ours():
                return
            for path in (*self.output.glob(".part-*.partial"), *self.folder.glob(".*.partial")):
                path.unlink(missing_ok=True)
            for path in self.folder.glob("started-*"):
                path.unlink(missing_ok=True)
            if not any(self.folder.glob("engine-*")):  # the engine that was agreed on never ran
                (self.folder / "engine").unlink(missing_ok=True)

    def _is_ours(self) -> bool:
        named = json.loads((self.folder / "run.json").read_text())["run"]
        return bool(named == self.run)

    def _started(self, block: Block) -> Path:
        return self.folder / f"started-{block.index:05}"

    def _done(self, block: Block) -> Path:
        return self.folder / f"block-{block.index:05}.json"


def earlier_plan(output: Path) -> Plan | None:
    """The plan of an earlier run in the folder `output`, None where there is none.

    Raises ClusterError for a plan of another version.

    >>> earlier_plan(Path("new")) is None
    True
    """
    path = output / FOLDER / "plan.json"
    return decoded_plan(path.read_text(), path) if path.exists() else None


def open_journal(output: Path, plan: Plan) -> Journal:
    """Write the plan where there is none, and make this run the only one that writes to the folder `output`.

    Raises ClusterError where the folder cannot be written.

    >>> plan = Plan(manifest="ab", options={}, shards="jsonl", block_records=128, files=(), blocks=())
    >>> open_journal(Path("output"), plan).done(plan)
    {}
    >>> earlier_plan(Path("output")) == plan
    True
    """
    journal = Journal(output=output, run=uuid.uuid4().hex)
    with _reported(output):
        journal.folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("plan.json", plan.encoded()), ("run.json", json.dumps({"run": journal.run}))):
        path = journal.folder / name
        if name == "run.json" or not path.exists():
            with _written(path) as partial:
                partial.write_text(text)
                partial.replace(path)
    journal.sweep()
    return journal


def remove_earlier_run(output: Path) -> None:
    """Remove an earlier run's shards and journal from the folder `output`, and nothing else."""
    with _reported(output):
        for path in (*(output / FOLDER).glob("*"), *output.glob("part-*-of-*.*"), *output.glob(".part-*.partial")):
            path.unlink(missing_ok=True)
        if (output / FOLDER).is_dir():
            (output / FOLDER).rmdir()


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, removed at the end."""
    partial = partial_path(path)
    with _reported(path):
        try:
            yield partial
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ClusterError(
            f"{path}: cannot be written ({error.strerror}); make room or the folder writable, then give the same "
            "command again"
        ) from error


def _counted(path: Path) -> int:
    """Add one to a count that is the size of a file; returns the count before."""
    with _reported(path), path.open("ab") as file:
        before = os.fstat(file.fileno()).st_size
        file.write(b".")
    return before


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
