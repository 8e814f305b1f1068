"""The journal: whose folder it is, what is done, and what another run may go on with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rmruntime.batching.runner import Statistics
from rmruntime.cluster.block_plan import Plan, differences, make_plan
from rmruntime.cluster.journal import FOLDER, earlier_plan, open_journal, remove_earlier_run
from rmruntime.cluster.options import ClusterOptions
from rmruntime.errors import BundleError, ClusterError
from rmruntime.options import ScoreOptions
from rmruntime.score_file import FileOptions, Summary

SUMMARY = Summary(backend="e", precision="fp32", records=2, pairs=2, pairs_right=1.5, statistics=Statistics(given=7))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"text": "{i}"}}\n' for i in range(5)))
    return path


def planned(source: Path, options: ScoreOptions | None = None, size: int = 2, **files: Any) -> Plan:
    made = FileOptions(input=str(source), **files)
    return make_plan(
        source.parent / "bundle", (source,), made, options or ScoreOptions(), ClusterOptions(block_records=size)
    )


def told(then: Plan, now: Plan) -> list[str]:
    return list(differences(then, now))


def test_a_plan_is_read_as_it_was_written(source: Path, tmp_path: Path) -> None:
    plan = planned(source)
    open_journal(tmp_path / "out", plan)
    kept = earlier_plan(tmp_path / "out")
    assert kept == plan and kept.digest == plan.digest and told(kept, plan) == []
    assert [plan.shard(b) for b in plan.blocks] == [f"part-0000{i}-of-00003.jsonl" for i in range(3)]


def test_what_differs_is_told(source: Path) -> None:
    plan = planned(source)
    assert told(plan, planned(source, ScoreOptions(truncate="left"))) == ["truncate (None then, 'left' now)"]
    assert told(plan, planned(source, precision="fp32")) == ["precision ('auto' then, 'fp32' now)"]
    assert told(plan, planned(source, on_error="skip", threads=3)) == []
    assert told(plan, planned(source, size=3)) == ["the records of a block (2 then, 3 now)"]
    assert told(plan, replace(plan, shards="parquet")) == ["the shards (jsonl then, parquet now)"]
    source.write_text(source.read_text().replace("3", "4"))
    assert told(plan, planned(source)) == ["the content of in.jsonl"]
    source.write_text(source.read_text() + "\n")
    assert told(plan, planned(source)) == ["the content of in.jsonl"]
    other = source.rename(source.with_name("other.jsonl"))
    (source.parent / "bundle" / "manifest.json").write_text("{} ")
    bundle, files = told(plan, planned(other))
    assert "the bundle (manifest " in bundle and files == "the input files (in.jsonl then, other.jsonl now)"


def test_tables_are_compared_by_content(tmp_path: Path, source: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = source.with_suffix(".parquet")
    for text in ("a", "b"):
        parquet.write_table(pyarrow.table({"text": [text]}), path, write_statistics=False)
        if text == "a":
            then = planned(path)
    assert then.files[0].size == path.stat().st_size and told(then, planned(path)) == ["the content of in.parquet"]


def test_no_bundle(source: Path) -> None:
    (source.parent / "bundle" / "manifest.json").unlink()
    with pytest.raises(BundleError, match="is not a bundle"):
        planned(source)


def test_a_block_is_done_when_its_shard_is_whole(source: Path, tmp_path: Path) -> None:
    plan, out = planned(source), tmp_path / "out"
    journal = open_journal(out, plan)
    for block in plan.blocks:
        shard = out / plan.shard(block)
        shard.write_text("xx\n")
        if block.index != 1:
            journal.finish(block, shard, SUMMARY)
    assert open_journal(out, plan).done(plan) == {0: SUMMARY, 2: SUMMARY}
    (out / plan.shard(plan.blocks[0])).write_text("x\n")
    (out / plan.shard(plan.blocks[2])).unlink()
    assert journal.done(plan) == {}


def test_attempts_are_counted_in_one_run(source: Path, tmp_path: Path) -> None:
    plan, out = planned(source), tmp_path / "out"
    journal = open_journal(out, plan)
    assert [journal.begin(plan.blocks[0]) for _ in range(3)] == [0, 1, 2] and journal.begin(plan.blocks[1]) == 0
    assert [journal.begin_load(), journal.begin_load()] == [0, 1]
    journal.loaded()
    assert journal.begin_load() == 0
    (out / f".{plan.shard(plan.blocks[0])}.77.partial").write_text("half")
    later = open_journal(out, plan)
    assert later.begin(plan.blocks[0]) == 0 and not list(out.glob(".*.partial"))


def test_a_run_that_lost_its_folder_writes_nothing(source: Path, tmp_path: Path) -> None:
    plan, out = planned(source), tmp_path / "out"
    earlier = open_journal(out, plan)
    earlier.check_run("here")
    later = open_journal(out, plan)
    later.check_run("here")
    half = out / ".part-00000-of-00003.jsonl.77.partial"
    half.write_text("")
    with pytest.raises(ClusterError, match="another run has begun to write there"):
        earlier.check_run("here")
    earlier.sweep()
    assert half.exists()
    with pytest.raises(ClusterError, match=r"is not seen on node7.*every machine must see the output folder"):
        replace(later, output=tmp_path / "elsewhere").check_run("node7")


def test_one_engine_scores_all(source: Path, tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "out", planned(source))
    journal.claim_engine("openvino in bf16", "a")
    journal.claim_engine("openvino in bf16", "b")
    with pytest.raises(ClusterError, match=r"c would score on ort-cpu in fp32.* on openvino in bf16; choose"):
        journal.claim_engine("ort-cpu in fp32", "c")
    journal.claim_engine("openvino in bf16", "b")


def test_the_first_worker_chooses_the_engine_for_all(source: Path, tmp_path: Path) -> None:
    journal = open_journal(tmp_path / "out", planned(source))
    assert [journal.agree_on_engine(name) for name in ("ort-cpu", "openvino", "ort-cpu")] == ["ort-cpu"] * 3
    again = open_journal(tmp_path / "out", planned(source))
    assert again.agree_on_engine("openvino") == "openvino"  # nothing ran until then
    again.claim_engine("openvino in 3 stages in turn in bf16", "a")
    later = open_journal(tmp_path / "out", planned(source))
    assert later.agree_on_engine("ort-cpu") == "openvino"
    remove_earlier_run(tmp_path / "out")
    assert open_journal(tmp_path / "out", planned(source)).agree_on_engine("ort-cpu") == "ort-cpu"


def test_beginning_anew_removes_what_is_ours_alone(source: Path, tmp_path: Path) -> None:
    plan, out = planned(source), tmp_path / "out"
    journal = open_journal(out, plan)
    for name in (plan.shard(plan.blocks[0]), "notes.txt", "part-of-something-else"):
        (out / name).write_text("x")
    journal.finish(plan.blocks[0], out / plan.shard(plan.blocks[0]), SUMMARY)
    remove_earlier_run(out)
    assert sorted(path.name for path in out.iterdir()) == ["notes.txt", "part-of-something-else"]
    remove_earlier_run(tmp_path / "nothing")


def test_a_plan_of_another_version_is_refused(source: Path, tmp_path: Path) -> None:
    open_journal(tmp_path / "out", planned(source))
    path = tmp_path / "out" / FOLDER / "plan.json"
    for text in ("{", "[]", json.dumps(json.loads(path.read_text()) | {"format": 99})):
        path.write_text(text)
        with pytest.raises(ClusterError, match=r"no plan of this version.*--overwrite"):
            earlier_plan(tmp_path / "out")
