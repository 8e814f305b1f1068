"""Which engine `auto` takes, and why: the rule on stated facts, and the facts that the CPU engines state."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conversations import ragged_records
from rmexport import ExportOptions, export
from rmruntime import BackendError, RewardModel
from rmruntime.backends import backends, choose_engine
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph
from rmruntime.cli import main
from rmruntime.engine_choice import Candidate, EngineFacts, preferred
from rmruntime.executors import load_executor
from rmruntime.options import EngineOptions
from tiny_checkpoints import TinyShape, gated

GB = 10**9


def one(name: str, speed: float, gigabytes: float, because: str = "") -> Candidate:
    facts = EngineFacts(precision="fp32", speed=speed, memory=int(gigabytes * GB), because=because)
    return Candidate(name=name, facts=facts)


@pytest.mark.parametrize(
    ("candidates", "free", "name", "reason"),
    [
        ([one("a", 1, 2), one("b", 0.8, 1)], 3, "a", "it is faster here than b in fp32"),
        ([one("a", 0.8, 1), one("b", 1, 2)], 3, "b", "it is faster here than a in fp32"),
        ([one("a", 2, 2, "it can"), one("b", 1, 2)], 3, "a", "it is faster here than b in fp32: it can"),
        ([one("a", 1, 2), one("b", 0.5, 0, "b is lean")], 3, "a", "it is faster here than b in fp32: b is lean"),
        (
            [one("a", 1, 4), one("b", 0.8, 1)], 3, "b",
            "a in fp32, which is faster, needs 4.0 GB for its weights where 3.0 GB are free",
        ),
        ([one("a", 9, 8), one("b", 1, 4), one("c", 0.5, 1)], 5, "b",
         "a in fp32, which is faster, needs 8.0 GB for its weights where 5.0 GB are free"),
        ([one("a", 1, 8), one("b", 0.8, 4)], 3, "b",
         "it needs 4.0 GB for its weights where 3.0 GB are free, and others need more"),
        ([one("a", 1, 1), one("b", 1, 1)], 3, "a", "it comes before b in fp32, which is as fast"),
        ([one("a", 0.1, 9)], 3, "a", "no other engine can run this bundle here (x and y are not installed)"),
    ],
)  # fmt: skip
def test_the_rule(candidates: list[Candidate], free: float, name: str, reason: str) -> None:
    found = preferred(candidates, int(free * GB), ["x", "y"])
    assert (found.name, found.reason) == (name, reason)


# The facts of the CPU engines, on processors and memories that are made up


def bundle_of(parameters: float, dtype: str, scheme: str | None = None) -> Any:
    """A bundle of so many parameters, of which the engines read no more than the manifest."""
    stored = {"bf16": 2, "fp16": 2, "fp32": 4}[dtype] * int(parameters)
    quantization = None
    if scheme is not None:
        stored = int(parameters)
        quantization = SimpleNamespace(scheme=scheme, parameters=int(parameters), block_size=0)
    graphs = [Graph(file=f"{d}.{c}.onnx", dialect=d, compute_dtype=c) for d, c in
              (("openvino", "bf16"), ("openvino", "fp32"), ("ort-cpu", "fp32")) if c in (dtype, "fp32")]  # fmt: skip
    manifest = SimpleNamespace(
        dtype=dtype,
        backbone=SimpleNamespace(parameters=int(parameters)),
        quantization=quantization,
        graphs=tuple(graphs),
        weight_bytes=lambda graph: stored,
        weight_share=lambda graph: 1.0,
    )
    return SimpleNamespace(manifest=manifest)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a processor and its free memory, with both CPU engines and no GPU."""

    def made(*, bf16: bool, free: float, missing: str = "") -> None:
        real = importlib.util.find_spec
        monkeypatch.setattr(backends()["openvino"], "has_bf16", lambda: bf16)
        for module in (backends()["openvino"], backends()["ort-cpu"]):
            monkeypatch.setattr(module, "available_memory", lambda: int(free * GB))
        monkeypatch.setattr("rmruntime.backends.available_memory", lambda: int(free * GB))
        installed = {"onnxruntime", "openvino"} - {missing}
        monkeypatch.setattr(
            importlib.util, "find_spec",
            lambda name: (name in installed or None) if name in ("onnxruntime", "openvino") else real(name),
        )  # fmt: skip

    return made


CASES: list[tuple[Any, Any, dict[str, Any], str, str]] = [
    # bundle, processor and memory, options, the engine, the beginning of its reason
    ((0.1e9, "fp32"), {"bf16": False, "free": 20}, {}, "ort-cpu in fp32", "it is faster here than openvino in fp32"),
    ((0.1e9, "bf16"), {"bf16": False, "free": 20}, {}, "ort-cpu in fp32", "it is faster here than openvino in fp32"),
    ((0.1e9, "bf16"), {"bf16": True, "free": 20}, {}, "openvino in bf16",
     "it is faster here than ort-cpu in fp32: this processor has bf16 products"),
    ((0.1e9, "bf16"), {"bf16": True, "free": 20}, {"precision": "fp32"}, "ort-cpu in fp32", "it is faster"),
    ((0.1e9, "fp32"), {"bf16": True, "free": 20}, {}, "ort-cpu in fp32", "it is faster here"),
    ((8e9, "bf16"), {"bf16": True, "free": 22}, {}, "openvino in bf16", "it is faster here than ort-cpu in fp32"),
    ((8e9, "bf16"), {"bf16": True, "free": 12}, {}, "ort-cpu in fp32",
     "openvino in bf16, which is faster, needs 16.0 GB for its weights where 12.0 GB are free"),
    # What ort-cpu would pack does not fit, and openvino's weights do.
    ((4e9, "fp32"), {"bf16": False, "free": 20}, {}, "openvino in fp32",
     "it is faster here than ort-cpu in fp32: ort-cpu lacks memory for 16.0 GB of packed weights"),
    ((8e9, "bf16", "int8"), {"bf16": False, "free": 20}, {}, "openvino in fp32",
     "it is faster here than ort-cpu in fp32: ort-cpu lacks memory for 32.0 GB of packed weights"),
    ((8e9, "bf16", "int8"), {"bf16": False, "free": 60}, {}, "ort-cpu in fp32", "it is faster here"),
    # openvino would widen all weights and then pack them; ort-cpu reads them where they are.
    ((8e9, "bf16"), {"bf16": False, "free": 22}, {}, "ort-cpu in fp32",
     "openvino in fp32, which is faster, needs 64.0 GB for its weights where 22.0 GB are free"),
    ((1e9, "fp32"), {"bf16": False, "free": 20}, {"memory_limit": 3 * GB}, "ort-cpu in fp32",
     "openvino in fp32, which is faster, needs 4.0 GB for its weights where 3.0 GB are free"),
    # Stages in turn: no more than the stage memory at a time.
    ((8e9, "bf16"), {"bf16": True, "free": 6}, {"stage_memory": 3 * GB}, "openvino in bf16", "it is faster here"),
    ((8e9, "bf16"), {"bf16": True, "free": 6}, {"stage_memory": "auto"}, "openvino in bf16", "it is faster here"),
    ((0.1e9, "bf16"), {"bf16": True, "free": 20, "missing": "openvino"}, {}, "ort-cpu in fp32",
     "no other engine can run this bundle here (openvino is not installed)"),
    ((0.1e9, "fp32"), {"bf16": False, "free": 20, "missing": "onnxruntime"}, {}, "openvino in fp32",
     "no other engine can run this bundle here (onnxruntime is not installed)"),
    ((0.1e9, "bf16"), {"bf16": False, "free": 20}, {"dialect": "openvino"}, "openvino in fp32",
     "no other engine can run this bundle here"),
    ((0.1e9, "bf16"), {"bf16": True, "free": 20}, {"device": "ort-cpu"}, "ort-cpu in fp32",
     "it was asked for by name"),
    ((8e9, "bf16"), {"bf16": False, "free": 1}, {"device": "openvino"}, "openvino in fp32",
     "it was asked for by name"),
]  # fmt: skip


@pytest.mark.parametrize(("bundle", "here", "options", "engine", "reason"), CASES)
def test_the_cpu_engines(machine: Any, bundle: Any, here: Any, options: Any, engine: str, reason: str) -> None:
    machine(**here)
    chosen = choose_engine(bundle_of(*bundle), EngineOptions(**{"device": "cpu", **options}))
    assert f"{chosen.module.NAME} in {chosen.facts.precision}" == engine
    assert chosen.reason.startswith(reason)
    assert chosen.pinned(EngineOptions(device="cpu")).device == chosen.module.NAME


def test_an_engine_without_the_precision_gives_way_to_one_that_has_it(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(bf16=True, free=20)
    bundle = bundle_of(1e8, "bf16")
    assert choose_engine(bundle, EngineOptions(device="cpu", precision="bf16")).module.NAME == "openvino"
    with pytest.raises(BackendError, match="ort-cpu cannot compute this bf16 bundle with precision 'bf16'"):
        choose_engine(bundle, EngineOptions(device="ort-cpu", precision="bf16"))
    machine(bf16=False, free=20)
    with pytest.raises(BackendError, match="openvino cannot compute this bf16 bundle with precision 'bf16'"):
        choose_engine(bundle, EngineOptions(device="cpu", precision="bf16"))


@pytest.mark.parametrize("name", ["ort-cuda", "tensorrt"])
def test_gpus_come_before_processors(name: str) -> None:
    module: Any = backends()[name]
    facts = module.facts(None, Graph(file="g", dialect="d", compute_dtype="bf16"), EngineOptions())
    assert facts.memory == 0 and facts.precision == "bf16"
    cpu = one("cpu", 2, 1)
    assert preferred([Candidate(name=name, facts=facts), cpu], 0).name == name


def test_the_processors_flags_spare_the_engine_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = backends()["openvino"]
    core = SimpleNamespace(get_property=lambda *names: ["FP32", "BF16"])
    monkeypatch.setattr(module, "openvino_core", lambda: core)
    for flags, expected in (({"avx2"}, False), ({"avx512_bf16"}, True), ({"amx_bf16"}, True), (set(), True)):
        monkeypatch.setattr(module, "_processor_flags", lambda found=flags: found)
        assert module.has_bf16() == expected


# What is told of it


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choice")
    export(str(gated(folder / "c", TinyShape()).folder), folder / "b", ExportOptions(dtype="fp32", stages=2))
    return folder / "b"


def test_a_model_says_why(bundle: Path) -> None:
    for device in ("ort-cpu", "openvino", "ort-cpu,ort-cpu"):
        if importlib.util.find_spec(backends()[device.partition(",")[0]].PACKAGE) is not None:
            with RewardModel.load(bundle, device=device) as model:
                assert model.backend_reason == "it was asked for by name"
    chosen = choose_engine(Bundle.open(bundle), EngineOptions())
    with RewardModel.load(bundle) as model:
        assert (model.backend, model.backend_reason) == (chosen.module.NAME, chosen.reason)
    with RewardModel.load(bundle, stage_memory=10**9) as model:
        assert model.backend_reason
    executor = load_executor(Bundle.open(bundle), EngineOptions(device="cpu,cpu"))
    assert executor.reason and executor.name.endswith("in 2 stages")
    executor.close()


def test_the_summary_of_score_says_why(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "a", "response": "b"}\n')
    assert main(["score", str(bundle), str(source), "-o", str(tmp_path / "out.jsonl")]) == 0
    with RewardModel.load(bundle) as model:
        assert f"engine {model.backend}, because {model.backend_reason}" in capsys.readouterr().err.splitlines()


def test_small_sizes_are_shown_as_what_they_are(bundle: Path) -> None:
    reason = choose_engine(Bundle.open(bundle), EngineOptions(memory_limit=1000)).reason
    assert "where 1000 bytes are free" in reason and "0.0" not in reason


def test_the_choice_is_the_same_in_the_same_state(bundle: Path) -> None:
    first = choose_engine(Bundle.open(bundle), EngineOptions(memory_limit=GB))
    assert all(choose_engine(Bundle.open(bundle), EngineOptions(memory_limit=GB)) == first for _ in range(3))
    with RewardModel.load(bundle, memory_limit=GB) as model:
        assert model.backend == first.module.NAME and model.score(ragged_records(2))
