"""A worker, called as Ray calls it: shards as one process writes them, and errors that come back as outcomes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexport import export
from rmruntime.cluster.block_plan import Plan, make_plan
from rmruntime.cluster.journal import Journal, open_journal
from rmruntime.cluster.options import ClusterOptions
from rmruntime.cluster.scorer import ATTEMPTS, BlockScorer, Job, Outcome, Task
from rmruntime.engine_choice import Preference
from rmruntime.options import ScoreOptions
from rmruntime.score_file import FileOptions, Summary, score_file
from tiny_checkpoints import gated

RECORDS = [
    {"id": "first", "prompt": "a", "response": "b"},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {"prompt": "a", "responses": ["b", "c"]},
    {"id": 7, "prompt": "a b", "chosen": "c", "rejected": "c"},
    {"prompt": "a", "steps": ["b", " c"]},
    {"query": "a", "documents": ["b", {"id": "d", "text": "c"}], "instruction": "e"},
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorer")
    export(str(gated(folder / "c").folder), folder / "b")
    return folder / "b"


class Run:
    """One run of a worker over an input in blocks of two records."""

    def __init__(self, bundle: Path, folder: Path, lines: list[str], on_error: Any = "stop") -> None:
        self.source, self.output = folder / "in.jsonl", folder / "out"
        self.source.write_text("".join(line + "\n" for line in lines))
        self.files = FileOptions(input=str(self.source), on_error=on_error, device="ort-cpu")
        cluster = ClusterOptions(block_records=2)
        self.plan: Plan = make_plan(bundle, (self.source,), self.files, ScoreOptions(), cluster)
        self.journal: Journal = open_journal(self.output, self.plan)
        self.job = Job(
            bundle=str(bundle), manifest=self.plan.manifest, files=self.files, options=ScoreOptions(),
            journal=self.journal, load_attempts=ATTEMPTS,
        )  # fmt: skip

    def score(self, index: int, scorer: BlockScorer | None = None) -> Outcome:
        block = self.plan.blocks[index]
        task = Task(block=block, path=str(self.source), shard=self.plan.shard(block))
        [line] = (scorer or BlockScorer(self.job))({"task": np.array([task.encoded()], object)})["outcome"]
        return Outcome(**json.loads(line))

    def text(self) -> str:
        return "".join(path.read_text() for path in sorted(self.output.glob("part-*")))


def lines(records: list[Any]) -> list[str]:
    return [record if isinstance(record, str) else json.dumps(record) for record in records]


def test_shards_together_are_what_one_process_writes(bundle: Path, tmp_path: Path) -> None:
    run = Run(bundle, tmp_path, lines([*RECORDS[:3], "", "{broken", *RECORDS[3:]]), "skip")
    scorer = BlockScorer(run.job)
    outcomes = [run.score(index, scorer) for index in (3, 1, 0, 2)]
    whole = score_file(str(bundle), replace(run.files, output=str(tmp_path / "whole.jsonl")), ScoreOptions())
    assert run.text() == (tmp_path / "whole.jsonl").read_text()
    done = run.journal.done(run.plan)
    assert [o.index for o in outcomes] == [3, 1, 0, 2] and sorted(done) == [0, 1, 2, 3]
    total = done[0] + done[1] + done[2] + done[3]
    for name in ("records", "errors", "pairs", "pairs_right", "backend", "precision"):
        assert getattr(total, name) == getattr(whole, name), name
    assert total.statistics.given == whole.statistics.given
    assert [Summary.decoded(o.summary or {}) for o in outcomes] == [done[o.index] for o in outcomes]


def test_all_workers_run_the_engine_that_the_first_one_chose(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their own machines would choose."""
    pytest.importorskip("openvino")
    run = Run(bundle, tmp_path, lines(RECORDS))
    run.job = replace(run.job, files=replace(run.files, device="cpu"))
    for index, own in enumerate(("openvino", "ort-cpu")):
        chosen = Preference(name=own, reason=f"{own} is first")
        monkeypatch.setattr("rmruntime.backends.preferred", lambda *a, found=chosen: found)
        assert run.score(index).error is None
    first, second = (run.journal.done(run.plan)[index] for index in (0, 1))
    assert first.backend == second.backend == "openvino"
    assert (first.reason, second.reason) == ("openvino is first", "the first worker of the run chose it")


def test_a_block_whose_worker_died_after_it_is_not_scored_again(bundle: Path, tmp_path: Path) -> None:
    run = Run(bundle, tmp_path, lines(RECORDS))
    first = run.score(0)
    [shard] = run.output.glob("part-*")
    before = shard.stat()
    again = run.score(0)
    assert again.summary == first.summary and (shard.stat().st_ino, shard.stat().st_mtime_ns) == (
        before.st_ino, before.st_mtime_ns,
    )  # fmt: skip


def test_a_bad_record_stops_its_block_and_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    run = Run(bundle, tmp_path, lines([*RECORDS[:3], "{broken"]))
    assert run.score(0).error is None
    outcome = run.score(1)
    assert outcome.error == "RecordError" and "in.jsonl, line 4 (record 3)" in outcome.message
    assert sorted(run.journal.done(run.plan)) == [0]
    assert [path.name for path in sorted(run.output.iterdir())] == ["_journal", "part-00000-of-00002.jsonl"]


def test_a_block_that_ends_every_worker(bundle: Path, tmp_path: Path) -> None:
    run = Run(bundle, tmp_path, lines([*RECORDS[:3], "{broken"]))
    for _ in range(ATTEMPTS):
        run.journal.begin(run.plan.blocks[1])  # and then the worker died
    outcome = run.score(1)
    assert outcome.error == "ClusterError"
    assert f"in.jsonl: block 1 (records 2 to 3) ended its worker {ATTEMPTS} times (--on-error skip" in outcome.message
    run.job = replace(run.job, files=replace(run.files, on_error="skip"))
    assert run.score(1).error is None
    given_up, broken = map(json.loads, run.text().splitlines())
    assert given_up["id"] == 2 and "(records 2 to 3) ended its worker" in given_up["error"]
    assert broken["id"] == 3 and "not JSON" in broken["error"]
    assert run.journal.done(run.plan)[1].errors == 2


def test_a_worker_that_does_not_see_the_bundle_or_the_output(bundle: Path, tmp_path: Path) -> None:
    run = Run(bundle, tmp_path, lines(RECORDS))
    job = run.job
    run.job = replace(job, bundle=str(tmp_path / "elsewhere"))
    assert "every machine must see the bundle under this path" in run.score(0).message
    run.job = replace(job, manifest="0" * 64)
    assert "is another bundle than where the run was started" in run.score(0).message
    run.job = replace(job, journal=replace(run.journal, output=tmp_path / "elsewhere"))
    assert "every machine must see the output folder under this path" in run.score(0).message
    run.job = replace(job, version="9.9")
    assert "install one version on all machines" in run.score(0).message
    run.job = replace(job, files=replace(run.files, device="tpu"))
    outcome = run.score(0)
    assert outcome.error == "BackendError" and "unknown device 'tpu'" in outcome.message
    assert not run.text() and not run.journal.done(run.plan)


def test_a_bundle_that_ends_every_worker_that_loads_it(bundle: Path, tmp_path: Path) -> None:
    run = Run(bundle, tmp_path, lines(RECORDS))
    assert run.score(0).error is None  # forgets the one attempt that was a success
    for _ in range(ATTEMPTS):
        run.journal.begin_load()
    assert f"workers have ended {ATTEMPTS} times while they loaded" in run.score(1).message


def test_a_worker_of_a_run_that_lost_its_folder(bundle: Path, tmp_path: Path) -> None:
    run = Run(bundle, tmp_path, lines(RECORDS))
    scorer = BlockScorer(run.job)
    run.score(0, scorer)
    open_journal(run.output, run.plan)
    assert "another run has begun to write there" in run.score(1, scorer).message
    assert sorted(run.journal.done(run.plan)) == [0]
