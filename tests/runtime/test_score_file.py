"""`score` on files: one output record per input record, in order, bad ones reported where they stand."""

import json
import os
import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from rmexport import ExportOptions, export
from rmruntime import BackendError, DeviceLimit, DeviceMemoryError, InputError, RewardModel, ScoreOptions
from rmruntime.backends import load_backend
from rmruntime.backends.base import Backend, Feeds, Outputs
from rmruntime.bundle import Bundle
from rmruntime.cli import main
from rmruntime.errors import OptionError, PassTooLarge
from rmruntime.options import EngineOptions
from rmruntime.score_file import FileOptions, score_file
from tiny_checkpoints import causal_lm, gated, sequence_classifier


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("score")
    export(str(sequence_classifier(folder / "s").folder), folder / "classifier")
    export(str(gated(folder / "g").folder), folder / "gated")
    options = ExportOptions(recipe="rlhflow-prm")
    export(str(causal_lm(folder / "c").folder), folder / "process", options)
    return {name: folder / name for name in ("classifier", "gated", "process")}


def run(bundle: Path, lines: list[Any], tmp_path: Path, on_error: Any = "stop") -> tuple[list[Any], Any]:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    files = FileOptions(input=str(source), output=str(target), on_error=on_error)
    summary = score_file(str(bundle), files, ScoreOptions())
    return [json.loads(line) for line in target.read_text().splitlines()], summary


def test_ids_order_and_fields(bundles: dict[str, Path], tmp_path: Path) -> None:
    records = [
        {"id": "first", "prompt": "a", "response": "b"},
        {"prompt": "a", "responses": ["b", "c"]},
        {"prompt": "a", "chosen": "b", "rejected": "c"},
        {"id": 7, "prompt": "a", "steps": ["b", " c"]},
    ]
    found, summary = run(bundles["gated"], records, tmp_path)
    assert [record["id"] for record in found] == ["first", 1, 2, 7]
    assert set(found[0]) == {"id", "score", "rewards", "gating"}
    assert found[1]["scores"][0] == found[0]["score"] == found[2]["chosen_score"] == found[3]["step_scores"][0]
    assert found[1]["rewards"][1] == found[2]["rejected_rewards"]
    assert len(found[3]["step_scores"]) == 2
    assert (summary.records, summary.pairs, summary.errors) == (4, 1, 0)
    assert summary.pairs_right == (found[2]["chosen_score"] > found[2]["rejected_score"])


def test_process_fields(bundles: dict[str, Path], tmp_path: Path) -> None:
    [found], _ = run(bundles["process"], [{"prompt": "a", "steps": ["b", "c", "d"]}], tmp_path)
    assert set(found) == {"id", "score", "step_scores", "step_logits"}
    assert found["score"] == pytest.approx(sum(found["step_scores"]) / 3)


def test_classifier_has_no_detail_fields(bundles: dict[str, Path], tmp_path: Path) -> None:
    [found], _ = run(bundles["classifier"], [{"prompt": "a", "response": "b"}], tmp_path)
    assert set(found) == {"id", "score"}


def test_bad_records_stop_or_are_reported_in_place(bundles: dict[str, Path], tmp_path: Path) -> None:
    lines = [{"prompt": "a", "response": "b"}, "{broken", {"messages": []}, {"prompt": "c", "response": "d"}]
    with pytest.raises(InputError, match="line 2"):
        run(bundles["classifier"], lines, tmp_path)
    assert not (tmp_path / "out.jsonl").exists()
    found, summary = run(bundles["classifier"], lines, tmp_path, "skip")
    assert [("score" in record, "error" in record) for record in found] == [
        (True, False), (False, True), (False, True), (True, False),
    ]  # fmt: skip
    assert "line 2" in found[1]["error"] and summary.errors == 2


def test_truncation_is_recorded(bundles: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"prompt": "a", "response": "the sum " * 300}) + "\n")
    files = FileOptions(input=str(source), output=str(tmp_path / "out.jsonl"))
    summary = score_file(str(bundles["classifier"]), files, ScoreOptions(truncate="right", max_length=64))
    found = json.loads((tmp_path / "out.jsonl").read_text())
    assert found["truncated"] > 0 and summary.truncated == 1


def test_command_line(bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert main(["score", str(bundles["classifier"]), str(source)]) == 0
    out, err = capsys.readouterr()
    assert set(json.loads(out)) == {"id", "chosen_score", "rejected_score"}
    assert "pair accuracy" in err
    assert re.search(r" \d+ tokens given, \d+ computed, \d+% shared, \d+ padded, 1 passes, ", err)
    assert main(["score", str(tmp_path / "nothing"), str(source)]) == 2
    assert "is not a bundle" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "package"), [("ort-cpu", "onnxruntime"), ("openvino", "openvino")])
def test_the_precision_asked_for_is_the_one_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str, package: str
) -> None:
    """A bf16 bundle: what `auto` makes of it is the processor's affair, fp32 can be had everywhere."""
    pytest.importorskip(package)
    export(str(sequence_classifier(tmp_path / "c").folder), tmp_path / "b", ExportOptions(dtype="bf16"))
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "response": "b"}\n')
    arguments = ["score", str(tmp_path / "b"), str(tmp_path / "in.jsonl"), "--device", device]
    assert main([*arguments, "--precision", "fp32"]) == 0
    assert f"on {device} in fp32:" in capsys.readouterr().err
    assert main([*arguments, "--precision", "fp16", "--output", str(tmp_path / "out.jsonl")]) == 2
    message = capsys.readouterr().err
    assert f"{device} cannot compute this bf16 bundle with precision 'fp16'" in message and "'auto'" in message
    assert not (tmp_path / "out.jsonl").exists()


def test_parquet_round_trip(bundles: dict[str, Path], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = pyarrow.table({"id": ["x", "y"], "prompt": ["a", "a"], "response": ["b", "c"]})
    parquet.write_table(table, tmp_path / "in.parquet")
    files = FileOptions(input=str(tmp_path / "in.parquet"), output=str(tmp_path / "out.parquet"))
    score_file(str(bundles["classifier"]), files, ScoreOptions())
    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["id"] == ["x", "y"] and all(isinstance(v, float) for v in found["score"])


class Cramped:
    """An engine on a device that holds few tokens, or that breaks after some passes."""

    def __init__(self, engine: Backend, limit: int, error: type[BackendError], broken_after: int = 1000) -> None:
        self._engine, self._limit, self._error, self._left = engine, limit, error, broken_after
        self.name, self.precision, self.graph = engine.name, engine.precision, engine.graph
        self.batch_tokens, self.tried = engine.batch_tokens, 0

    def run(self, feeds: Feeds) -> Outputs:
        self.tried += 1
        self._left -= 1
        if self._left < 0:
            raise BackendError("the device was lost")
        if feeds["input_ids"].size > self._limit:
            raise self._error(f"{feeds['input_ids'].size} tokens, room for {self._limit}")
        return self._engine.run(feeds)

    def close(self) -> None:
        self._engine.close()


def cramped(monkeypatch: pytest.MonkeyPatch, **limits: Any) -> list[Cramped]:
    """Every RewardModel that is loaded from now on has such an engine."""
    made: list[Cramped] = []

    def load(opened: Bundle, options: EngineOptions) -> Cramped:
        made.append(Cramped(load_backend(opened, replace(options, device="ort-cpu")), **limits))
        return made[-1]

    monkeypatch.setattr("rmruntime.executors.load_backend", load)
    return made


SHORT = [{"id": i, "input_ids": [5 + i, 6, 7, 8 + i]} for i in range(6)]
LONG = {"id": "long", "input_ids": list(range(5, 45))}


def scored(bundle: Path, tmp_path: Path, on_error: Any) -> Any:
    lines = [*SHORT[:3], LONG, *SHORT[3:]]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = FileOptions(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.jsonl"), on_error=on_error)
    return score_file(str(bundle), files, ScoreOptions())


def alone(bundle: Path) -> dict[Any, float]:
    with RewardModel.load(bundle, device="ort-cpu") as model:
        return {r["id"]: model.score([{"input_ids": r["input_ids"]}])[0].value for r in (*SHORT, LONG)}


def records(path: Path) -> dict[Any, Any]:
    return {record["id"]: record for record in map(json.loads, path.read_text().splitlines())}


def test_a_pass_beyond_a_known_limit_is_cut_until_it_fits(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles["classifier"]
    expected = alone(bundle)
    cramped(monkeypatch, limit=8, error=PassTooLarge)
    summary = scored(bundle, tmp_path, "skip")
    found = records(tmp_path / "out.jsonl")
    assert list(found) == [0, 1, 2, "long", 3, 4, 5] and summary.errors == 1
    assert "does not fit into the device" in found["long"]["error"]
    assert {i: found[i]["score"] for i in range(6)} == {i: expected[i] for i in range(6)}
    assert summary.statistics.sequences == 6


def test_out_of_memory_is_tried_once_more_in_two_halves(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles["classifier"]
    expected = alone(bundle)
    made = cramped(monkeypatch, limit=39, error=DeviceMemoryError)
    summary = scored(bundle, tmp_path, "skip")
    found = records(tmp_path / "out.jsonl")
    failed = {name for name, record in found.items() if "error" in record}
    assert made[0].tried == 3 and "long" in failed and summary.errors == len(failed) in (3, 4)
    assert {i: found[i]["score"] for i in found.keys() - failed} == {i: expected[i] for i in found.keys() - failed}


def test_a_limit_ends_a_run_that_stops_but_loses_no_score(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cramped(monkeypatch, limit=8, error=PassTooLarge)
    with pytest.raises(DeviceLimit, match=r"1 records could not be computed.*out\.jsonl\.partial"):
        scored(bundles["classifier"], tmp_path, "stop")
    assert not (tmp_path / "out.jsonl").exists()
    assert len(records(tmp_path / "out.jsonl.partial")) == 7


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_lost_device_leaves_the_earlier_windows(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr("rmruntime.batching.prefetch.RECORDS_AHEAD", 2)
    cramped(monkeypatch, limit=100, error=DeviceMemoryError, broken_after=2)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in SHORT))
    files = FileOptions(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / f"out.{suffix}"))
    with pytest.raises(BackendError, match=rf"device was lost.*out\.{suffix}\.partial"):
        score_file(str(bundles["classifier"]), files, ScoreOptions())
    kept = tmp_path / f"out.{suffix}.partial"
    rows = pyarrow.parquet.read_table(kept).to_pylist() if suffix == "parquet" else list(records(kept).values())
    assert [row["id"] for row in rows] == [0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", kept.name]


def test_lists_of_chosen_and_rejected(bundles: dict[str, Path], tmp_path: Path) -> None:
    """The key is to be above all others; a tie at the top counts by its share, as RewardBench 2 does."""
    answers = ["b", "c d", "e f g", "hh"]
    with RewardModel.load(bundles["classifier"], device="ort-cpu") as model:
        values = [score.value or 0.0 for score in model.score_candidates("a", answers)]
    order = [answers[i] for i in sorted(range(4), key=lambda i: -values[i])]
    best, second, third, worst = order
    lists = [
        {"prompt": "a", "chosen": [best], "rejected": [second, third, worst]},
        {"prompt": "a", "chosen": [second], "rejected": [best, worst]},
        {"prompt": "a", "chosen": [best], "rejected": [best, best, worst]},
        {"prompt": "a", "chosen": [second, best], "rejected": [third, worst]},
        {"prompt": "a", "chosen": [best, third], "rejected": [second]},
    ]
    found, summary = run(bundles["classifier"], lists, tmp_path)
    assert [set(record) for record in found] == [{"id", "chosen_scores", "rejected_scores"}] * 5
    assert [(len(r["chosen_scores"]), len(r["rejected_scores"])) for r in found] == [
        (1, 3), (1, 2), (1, 3), (2, 2), (2, 1),
    ]  # fmt: skip
    assert (summary.sets, summary.sets_right, summary.pairs) == (5, pytest.approx(2 + 1 / 3), 0)
    assert "set accuracy 46.67% (5 " in summary.text()


@pytest.mark.parametrize("target", ["in.jsonl", "./in.jsonl", "link.jsonl", "hard.jsonl", "sub/../in.jsonl"])
def test_an_output_that_is_the_input_is_refused(bundles: dict[str, Path], tmp_path: Path, target: str) -> None:
    text = '{"prompt": "a", "response": "b"}\n'
    (tmp_path / "in.jsonl").write_text(text)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.jsonl").symlink_to("in.jsonl")
    os.link(tmp_path / "in.jsonl", tmp_path / "hard.jsonl")
    files = FileOptions(input=str(tmp_path / "in.jsonl"), output=f"{tmp_path}/{target}")
    with pytest.raises(OptionError, match="found the input itself"):
        score_file(str(bundles["classifier"]), files, ScoreOptions())
    assert (tmp_path / "in.jsonl").read_text() == text


def test_an_id_that_parquet_cannot_hold_is_the_records_error(bundles: dict[str, Path], tmp_path: Path) -> None:
    ids = [2**63 - 1, 2**63, -(2**63) - 1, 5]
    text = "".join(json.dumps({"id": identity, "prompt": "a", "response": "b"}) + "\n" for identity in ids)
    (tmp_path / "in.jsonl").write_text(text + json.dumps({"id": 2**70, "prompt": 3}) + "\n")
    files = FileOptions(input=str(tmp_path / "in.jsonl"), output=str(tmp_path / "out.parquet"), on_error="skip")
    summary = score_file(str(bundles["classifier"]), files, ScoreOptions())
    rows = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == [2**63 - 1, 1, 2, 5, 4] and summary.errors == 3
    assert [row["error"] is None for row in rows] == [True, False, False, True, False]
    assert [row["score"] is None for row in rows] == [False, True, True, False, True]
    with pytest.raises(InputError, match=r"record 1: id: found 922337203.*out\.parquet\.partial \(1 record\)"):
        score_file(str(bundles["classifier"]), replace(files, on_error="stop"), ScoreOptions())


def test_a_bad_record_that_ends_the_run_loses_no_score(bundles: dict[str, Path], tmp_path: Path) -> None:
    lines = [{"prompt": "a", "response": "b"}, {"id": "x", "prompt": "a", "response": "c"}, '{"id": "\\ud800"}']
    with pytest.raises(InputError, match=r"half a surrogate pair.*in .*out\.jsonl\.partial \(2 records\)"):
        run(bundles["classifier"], lines, tmp_path)
    assert list(records(tmp_path / "out.jsonl.partial")) == [0, "x"]


def test_a_full_disk_loses_no_score(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 50)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        status = main(["score", str(bundles["classifier"]), f"{tmp_path}/in.jsonl", "-o", f"{tmp_path}/out.jsonl"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert status == 2 and "error: " in said and "What was scored until then is in" in said
    kept = records(tmp_path / "out.jsonl.partial")
    assert list(kept) == list(range(len(kept))) and f"({len(kept)} records)" in said and 5 < len(kept) < 50


def test_an_interrupt_keeps_the_windows_before(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rmruntime.batching.prefetch.RECORDS_AHEAD", 2)
    cramped(monkeypatch, limit=100, error=DeviceMemoryError)
    real = Cramped.run
    monkeypatch.setattr(Cramped, "run", lambda self, feeds: real(self, feeds) if self.tried < 2 else _interrupt())
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in SHORT))
    arguments = ["score", str(bundles["classifier"]), f"{tmp_path}/in.jsonl", "-o", f"{tmp_path}/out.jsonl"]
    assert main(arguments) == 130
    assert re.search(r"interrupted; what was scored until then is in .*out\.jsonl\.partial", capsys.readouterr().err)
    assert list(records(tmp_path / "out.jsonl.partial")) == [0, 1, 2, 3]


def _interrupt() -> Any:
    raise KeyboardInterrupt


def test_an_interrupted_run_still_leaves_nothing(
    bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = cramped(monkeypatch, limit=100, error=DeviceMemoryError)
    monkeypatch.setattr(Cramped, "run", lambda self, feeds: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        scored(bundles["classifier"], tmp_path, "stop")
    assert made and [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
