"""Choosing an engine: what was asked for or an error that names what to install, never another one."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexport import export
from rmruntime import BackendError, EngineNotInstalled, OptionError, RewardModel
from rmruntime.backends import backends, load_backend
from rmruntime.bundle import Bundle
from rmruntime.options import EngineOptions
from tiny_checkpoints import sequence_classifier


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends")
    export(str(sequence_classifier(folder / "checkpoint").folder), folder / "bundle")
    return folder / "bundle"


@pytest.mark.parametrize("name", backends())
def test_every_backend_keeps_the_contract(bundle: Path, name: str) -> None:
    module: Any = backends()[name]
    assert module.NAME == name and module.DEVICES and module.DIALECTS and module.EXTRA
    obstacle = module.obstacle(Bundle.open(bundle), EngineOptions(device=name))
    if obstacle is not None:  # its package, its GPU or its compiled engine is missing
        pytest.skip(str(obstacle))
    with RewardModel.load(bundle, device=name) as model:
        assert model.backend == name
        assert model.precision in ("fp32", "bf16", "fp16")
        [score] = model.score([{"prompt": "a", "response": "b"}])
        assert score == model.score([{"prompt": "a", "response": "b"}])[0]


def test_a_missing_engine_is_named_with_its_extra(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for device in ("auto", "cpu", "ort-cpu"):
        with pytest.raises(EngineNotInstalled, match=r"rmruntime\[cpu\]"):
            RewardModel.load(bundle, device=device)


def test_unknown_device_names_the_known_ones(bundle: Path) -> None:
    with pytest.raises(BackendError, match="ort-cpu"):
        RewardModel.load(bundle, device="abacus")


def test_a_graph_that_does_not_load_is_a_backend_error(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    (graph,) = [g for g in opened.manifest.graphs if g.dialect == "ort-cpu"]
    broken = Bundle(tmp_path, opened.manifest)
    (tmp_path / graph.file).write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=graph.file):
        load_backend(broken, EngineOptions(device="ort-cpu"))


def test_a_failing_pass_is_a_backend_error(bundle: Path) -> None:
    backend = load_backend(Bundle.open(bundle), EngineOptions(device="ort-cpu"))
    with pytest.raises(BackendError, match="pass of 1 tokens"):
        backend.run({"input_ids": np.array([1])})


@pytest.mark.parametrize("device", ["cpu:7", "ort-cpu:0"])
def test_a_cpu_has_no_number(bundle: Path, device: str) -> None:
    with pytest.raises(BackendError, match="no device number"):
        RewardModel.load(bundle, device=device)


def test_threads_are_counted_from_zero(bundle: Path) -> None:
    with pytest.raises(OptionError, match="threads"):
        RewardModel.load(bundle, threads=-3)
    with RewardModel.load(bundle, threads=1) as model:
        model.score([{"prompt": "a", "response": "b"}])
