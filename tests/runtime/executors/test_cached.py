"""An engine with a prefix cache: where there can be one, where none, and what is said about it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conversations import ragged_records
from rmexport import ExportOptions
from rmruntime import BackendError, BundleError, OptionError, RewardModel, ScoreOptions
from rmruntime.backends import choose_engine
from rmruntime.bundle import Bundle
from rmruntime.cli import main
from rmruntime.executors.cached import cached_form, obstacle
from rmruntime.options import EngineOptions
from rmruntime.records import parse_record
from tampered_bundles import (
    change_graphs,
    copied,
    manifest_of,
    rewrite_file,
    small_bundle,
    without_seal,
    write_manifest,
)


@pytest.fixture(scope="module")
def bundle(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """In two stages, of fp32 weights."""

    def make(folder: Path) -> None:
        small_bundle(folder, 2, ExportOptions(stages=2))

    return made_once("cached", make) / "exported"


def without_past(bundle: Path, target: Path) -> Path:
    """The bundle as one that was exported before there were graphs with a past."""
    older = copied(bundle, target)
    data = manifest_of(older)
    gone = {graph.pop("past")["file"] for graph in data["graphs"] if graph["past"]}
    gone |= {stage.pop("past") for graph in data["graphs"] for stage in graph["stages"]}
    data["files"] = [record for record in data["files"] if record["name"] not in gone]
    for graph in data["graphs"]:
        graph.pop("past", None)
    write_manifest(older, data)
    return older


def test_auto_takes_a_share_of_the_memory(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmruntime.executors.cached.available_memory", lambda: 6_000_000_000)
    with RewardModel.load(bundle, device="ort-cpu", prefix_cache="auto") as model:
        assert model.prefix_cache == "of 1.5 GB"
    monkeypatch.setattr("rmruntime.executors.cached.available_memory", lambda: 0)
    with RewardModel.load(bundle, device="ort-cpu", prefix_cache="auto") as model:
        assert model.prefix_cache == "off, because no memory is left for it"
        assert len(model.score(ragged_records(2) * 2)) == 4
    with RewardModel.load(bundle, device="ort-cpu", prefix_cache=23_456_789) as model:
        assert model.prefix_cache == "of 23.5 MB"
    with RewardModel.load(bundle, device="ort-cpu") as model:
        assert model.prefix_cache == ""


def test_a_bundle_without_such_graphs_says_so(bundle: Path, tmp_path: Path) -> None:
    older = without_past(bundle, tmp_path / "older")
    records = ragged_records(3)
    with RewardModel.load(bundle, device="ort-cpu") as model:
        expected = model.score(records)
    with RewardModel.load(older, device="ort-cpu", prefix_cache="auto") as model:
        assert model.prefix_cache == "off, because the bundle has no graphs with a past: export it again"
        assert model.score(records) == expected
    with pytest.raises(BackendError, match=r"no graphs with a past: export it again.*Leave --prefix-cache out"):
        RewardModel.load(older, device="ort-cpu", prefix_cache=1_000_000)


def test_engines_and_encoders_without_one_say_so(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    graph = next(g for g in opened.manifest.graphs if g.dialect == "portable")
    choice = replace(choose_engine(opened, EngineOptions(device="ort-cpu")), graph=graph)
    assert obstacle(opened, choice) == "ort-cpu runs graphs of portable here, which have none with a past"
    padded = replace(choice, graph=replace(graph, layout="padded"))
    assert obstacle(opened, padded) == "an encoder computes each sequence whole"
    for options in (EngineOptions(prefix_cache="auto"), EngineOptions()):
        assert cached_form(opened, options, choice) is None
    with pytest.raises(BackendError, match="there can be no prefix cache: ort-cpu runs graphs of portable"):
        cached_form(opened, EngineOptions(prefix_cache=1_000_000), choice)


def test_stages_in_turn_say_that_they_have_none(bundle: Path) -> None:
    why = "stages that run in turn keep none"
    with RewardModel.load(bundle, device="ort-cpu", stage_memory="auto", prefix_cache="auto") as model:
        assert model.prefix_cache == f"off, because {why}"
    with pytest.raises(BackendError, match=why):
        RewardModel.load(bundle, device="ort-cpu", stage_memory="auto", prefix_cache=1_000_000)


@pytest.mark.parametrize("device", ["ort-cpu,ort-cpu", pytest.param("openvino,openvino", marks=pytest.mark.ladder)])
def test_stages_on_several_devices_keep_what_their_layers_computed(bundle: Path, tmp_path: Path, device: str) -> None:
    records = ragged_records(9)
    with RewardModel.load(bundle, device=device) as model:
        expected = model.score(records)
    with RewardModel.load(bundle, device=device, prefix_cache=5_000_000) as model:
        for _ in range(2):
            requests = [parse_record(record) for record in records]
            runs = [model.run([request], ScoreOptions()) for request in requests]
            assert [run.results[0] for run in runs] == expected
        assert all(run.statistics.computed == 1 for run in runs)
    older = without_past(bundle, tmp_path / "older")
    with RewardModel.load(older, device=device, prefix_cache="auto") as model:
        assert model.prefix_cache.startswith("off, because the bundle has no graphs with a past")
    with pytest.raises(BackendError, match="no graphs with a past"):
        RewardModel.load(older, device=device, prefix_cache=5_000_000)


def test_the_command_prints_what_was_found(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in ragged_records(2) * 2))
    command = ["score", str(bundle), str(source), "-o", str(output), "--device", "ort-cpu"]
    assert main([*command, "--prefix-cache", "2MB", "--max-batch-tokens", "1"]) == 0
    assert "prefix cache of 2.0 MB: " in capsys.readouterr().err
    cached = output.read_bytes()
    assert main(command) == 0
    assert "prefix cache" not in capsys.readouterr().err
    assert output.read_bytes() == cached
    assert main([*command, "--prefix-cache", "much"]) == 2
    assert "prefix cache: 'much' is no size" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0, -5, "on", True])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="prefix_cache is"):
        EngineOptions(prefix_cache=value)


def test_a_graph_is_only_taken_for_what_it_was_written_as(bundle: Path, tmp_path: Path) -> None:
    """The graph with a past in place of the other, the other in its place, and another width."""
    graph = next(g for g in Bundle.open(bundle).manifest.graphs if g.dialect == "ort-cpu")
    assert graph.past is not None
    for name, other in ((graph.file, graph.past.file), (graph.past.file, graph.file)):
        swapped = copied(bundle, tmp_path / name)
        rewrite_file(swapped, name, (bundle / other).read_bytes())
        with pytest.raises(BundleError, match="past"):
            RewardModel.load(swapped, device="ort-cpu", prefix_cache="auto")
    wider = copied(bundle, tmp_path / "wider")
    data = manifest_of(wider)
    for one in data["graphs"]:
        if one["past"]:
            one["past"]["features"] *= 2
    write_manifest(wider, data)
    with pytest.raises(BundleError, match="written with past 32, the manifest says 64"):
        RewardModel.load(wider, device="ort-cpu", prefix_cache="auto")
    change_graphs(wider, without_seal)
    with pytest.raises(BundleError, match=r"its past_k_0 is no \[\., 64\] of fp32"):
        RewardModel.load(wider, device="ort-cpu", prefix_cache="auto")
