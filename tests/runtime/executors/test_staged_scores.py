"""Stages side by side and in turn: scores are bitwise those of the whole graph, and every refusal is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbone_shapes import BACKBONES
from conversations import ragged_records
from fake_cuda import FakeDriver, FakeOnnxRuntime
from family_checkpoints import family_checkpoint
from rmexport import ExportOptions, export
from rmruntime import BackendError, RewardModel, ScoreOptions
from rmruntime.backends import ort_cuda
from rmruntime.bundle import Bundle
from rmruntime.cli import main
from rmruntime.devices import cuda_driver
from rmruntime.errors import DeviceMemoryError, OptionError
from rmruntime.executors import streaming
from rmruntime.executors.stage_group import split_by_memory
from rmruntime.options import EngineOptions
from tiny_checkpoints import TinyShape, gated

ENGINES = [("ort-cpu", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]
SMALL_PASSES = ScoreOptions(max_batch_tokens=200)
WAVE_BYTES = 600 * 4 * 64  # hidden states of about half of the conversations
# Memory for one stage beside the next (2), for one alone (1), and for more than one.
SHARES = (2.0, 1.0, 2.5)
IN_TURN = [
    *((*ENGINES[0], share) for share in SHARES),
    *(pytest.param(*ENGINES[1], share, marks=pytest.mark.ladder) for share in SHARES),
    *(pytest.param(*ENGINES[2], share, marks=pytest.mark.ladder) for share in SHARES),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six layers."""
    return str(gated(tmp_path_factory.mktemp("staged") / "checkpoint", TinyShape(num_hidden_layers=6)).folder)


@pytest.fixture(scope="module")
def bundles(checkpoint: str) -> dict[str, Path]:
    """As many stages as layers, by dtype, and a "whole" bundle without any; each made when first asked for."""
    return Bundles(checkpoint)


class Bundles(dict[str, Path]):
    """`checkpoint` exported in each of the ways that tests ask for."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def __missing__(self, name: str) -> Path:
        options = ExportOptions() if name == "whole" else ExportOptions(dtype=name, stages=6)  # type: ignore[arg-type]
        self[name] = Path(self.checkpoint).parent / name
        export(self.checkpoint, self[name], options)
        return self[name]


def largest_stage(bundle: Path) -> int:
    return max(stage.weight_bytes for stage in Bundle.open(bundle).manifest.graphs[0].stages)


def scores(bundle: Path, **options: Any) -> tuple[str, list[Any]]:
    with RewardModel.load(bundle, **options) as model:
        return model.backend, model.score(ragged_records(24), SMALL_PASSES)


@pytest.mark.parametrize(("device", "dtype"), [*ENGINES[:2], pytest.param(*ENGINES[2], marks=pytest.mark.ladder)])
def test_scores_are_those_of_the_whole_graph(bundles: dict[str, Path], device: str, dtype: str) -> None:
    pytest.importorskip({"ort-cpu": "onnxruntime"}.get(device, device))
    _, expected = scores(bundles[dtype], device=device)
    for count in (2, 4):
        found = scores(bundles[dtype], device=",".join([device] * count))
        assert found == (f"{device} in {count} stages", expected)


@pytest.mark.parametrize(("device", "dtype", "share"), IN_TURN)
def test_scores_in_turn_are_those_of_the_whole_graph(
    bundles: dict[str, Path], device: str, dtype: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages are loaded more than once: there is no room for the hidden states of all conversations."""
    pytest.importorskip({"ort-cpu": "onnxruntime"}.get(device, device))
    records = ragged_records(24)
    largest, stages = largest_stage(bundles[dtype]), Bundle.open(bundles[dtype]).manifest.graphs[0].stages
    memory, at_once = int(share * largest), int(max(share / 2, 1) * largest)
    monkeypatch.setattr(streaming, "HIDDEN_SHARE", WAVE_BYTES / memory)
    with RewardModel.load(bundles[dtype], device=device) as model:
        expected = model.score(records, SMALL_PASSES)
    with RewardModel.load(bundles[dtype], device=device, stage_memory=memory) as model:
        found = model.score(records, SMALL_PASSES)
        groups = len(split_by_memory(stages, at_once))
        assert (model.backend, found) == (f"{device} in {groups} stages in turn", expected) and groups > 2


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"mlp_only_layers": [2], "norm_topk_prob": True}, id="shares-of-one"),
        pytest.param(
            {"mlp_only_layers": [0, 3], "norm_topk_prob": False}, id="shares-as-they-are", marks=pytest.mark.ladder
        ),
    ],
)
@pytest.mark.parametrize("device", ["ort-cpu", pytest.param("openvino", marks=pytest.mark.ladder)])
def test_a_stage_that_ends_behind_experts(tmp_path: Path, fields: dict[str, Any], device: str) -> None:
    """The last layer with experts of a stage's graph, with and without others behind it, is as in the whole graph."""
    pytest.importorskip({"ort-cpu": "onnxruntime"}.get(device, device))
    _, shape = BACKBONES["qwen3_moe"]
    more = {"num_hidden_layers": 4, "num_experts_per_tok": 5, **fields}
    checkpoint = family_checkpoint(tmp_path / "c", "qwen3_moe", shape | more)
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(dtype="fp32", stages=4))
    _, expected = scores(tmp_path / "b", device=device)
    for count in (2, 3, 4):
        assert scores(tmp_path / "b", device=",".join([device] * count)) == (f"{device} in {count} stages", expected)


@pytest.mark.parametrize("scheme", ["int8", pytest.param("int4", marks=pytest.mark.ladder)])
@pytest.mark.parametrize("device", ["ort-cpu", pytest.param("openvino", marks=pytest.mark.ladder)])
def test_quantized_stages(checkpoint: str, tmp_path: Path, scheme: Any, device: str) -> None:
    pytest.importorskip({"ort-cpu": "onnxruntime"}.get(device, device))
    export(checkpoint, tmp_path / "b", ExportOptions(dtype="bf16", quantize=scheme, stages=3))
    _, expected = scores(tmp_path / "b", device=device)
    assert scores(tmp_path / "b", device=f"{device},{device}") == (f"{device} in 2 stages", expected)
    graph = Bundle.open(tmp_path / "b").manifest.graphs[0]
    stored = {f.name: f.size for f in Bundle.open(tmp_path / "b").manifest.files if f.role == "weights"}
    # The codes and the scales of a matrix both belong to its stage; files have headers besides.
    assert 0.9 * sum(stored.values()) < sum(s.weight_bytes for s in graph.stages) < sum(stored.values())


def test_what_fits_into_the_stage_memory_is_loaded_once(bundles: dict[str, Path]) -> None:
    _, expected = scores(bundles["fp32"], device="ort-cpu")
    for bundle in ("fp32", "whole"):  # which need not have stages then
        for memory in (10**9, "auto"):
            assert scores(bundles[bundle], device="ort-cpu", stage_memory=memory) == ("ort-cpu", expected)


@pytest.mark.ladder
def test_each_load_serves_as_many_passes_as_there_is_room_for(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 records of about 1000 tokens in all: one wave, or one of every other pass."""
    loads: list[int] = []
    real = streaming.StageLoader.groups

    def counted(loader: Any) -> Any:
        loads.append(1)
        return real(loader)

    monkeypatch.setattr(streaming.StageLoader, "groups", counted)
    memory = 2 * largest_stage(bundles["fp32"])
    _, expected = scores(bundles["fp32"], device="ort-cpu", stage_memory=memory)
    few = len(loads)
    monkeypatch.setattr(streaming, "HIDDEN_SHARE", 200 * 4 * 64 / memory)  # of 200 tokens
    assert scores(bundles["fp32"], device="ort-cpu", stage_memory=memory)[1] == expected
    assert len(loads) - few > few >= 1


def test_the_command_line_does_both(bundles: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    records = tmp_path / "in.jsonl"
    records.write_text("".join(json.dumps(record) + "\n" for record in ragged_records(6)))
    memory = 2 * largest_stage(bundles["fp32"])
    written = []
    ways = (["--device", "ort-cpu"], ["--device", "ort-cpu, ort-cpu"], ["--device", "ort-cpu", "--stage-memory"])
    for i, way in enumerate(ways):
        out = tmp_path / f"{i}.jsonl"
        more = [f"{memory}B"] if way[-1] == "--stage-memory" else []
        assert main(["score", str(bundles["fp32"]), str(records), "-o", str(out), *way, *more]) == 0
        written.append(out.read_text())
    assert written[0] == written[1] == written[2]
    said = capsys.readouterr().err
    assert "on ort-cpu in 2 stages in fp32" in said and "on ort-cpu in 6 stages in turn in fp32" in said


def test_a_stage_memory_that_is_no_size(bundles: dict[str, Path], capsys: Any) -> None:
    assert main(["score", str(bundles["fp32"]), "-", "--stage-memory", "6 parsecs"]) == 2
    assert "stage memory: '6 parsecs' is no size; expected one like 5GB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bundle", "options", "message"),
    [
        ("whole", {"device": "ort-cpu,ort-cpu"}, r"no stages of ort-cpu.*rmexport export --stages N"),
        ("whole", {"device": "ort-cpu", "stage_memory": 1000}, r"no stages of ort-cpu.*--stages N"),
        ("fp32", {"device": ",".join(["ort-cpu"] * 7)}, r"7 devices were given for 6 stages.*--stages 7"),
        ("fp32", {"device": "ort-cpu,openvino"}, r"one engine: ort-cpu runs ort-cpu, openvino runs openvino"),
        ("fp32", {"device": "ort-cpu,ort-cpu", "stage_memory": 1000}, "name one device or leave the stage memory out"),
        ("fp32", {"device": "ort-cpu,"}, "unknown device ''"),
        ("fp32", {"device": "ort-cpu,tensorrt"}, "tensorrt runs no stages; choose .*ort-cpu"),
    ],
)
def test_what_cannot_be(bundles: dict[str, Path], bundle: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        RewardModel.load(bundles[bundle], **options)


def test_a_stage_that_does_not_fit_says_by_how_much(bundles: dict[str, Path]) -> None:
    memory = largest_stage(bundles["fp32"]) - 1000
    with pytest.raises(DeviceMemoryError, match=r"layers 0 to 0 has .* 0\.000 GB more than the stage memory.*--stages"):
        RewardModel.load(bundles["fp32"], device="ort-cpu", stage_memory=memory)
    with pytest.raises(OptionError, match="stage_memory is -1, expected a number of bytes or 'auto'"):
        EngineOptions(stage_memory=-1)


def test_an_unknown_amount_of_memory_is_no_amount(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "available_memory", lambda: streaming.UNLIMITED)
    with pytest.raises(BackendError, match="'auto': the memory that ort-cpu has here is not known; give a size"):
        RewardModel.load(bundles["fp32"], device="ort-cpu", stage_memory="auto")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> FakeOnnxRuntime:
    """Three GPUs that are not there."""
    driver, ort = FakeDriver(count=3), FakeOnnxRuntime()
    monkeypatch.setattr(cuda_driver, "load_library", lambda: driver)
    monkeypatch.setattr(ort_cuda, "engine_module", lambda name: ort)
    return ort


def test_gpus_hand_hidden_states_over_without_the_host(bundles: dict[str, Path], gpus: FakeOnnxRuntime) -> None:
    name, found = scores(bundles["fp32"], device="cuda:0,cuda:1,cuda:2")
    assert name == "ort-cuda in 3 stages"
    _, expected = scores(bundles["fp32"], device="ort-cpu")
    np.testing.assert_allclose([s.value for s in found], [s.value for s in expected], atol=2e-5)
    assert [s.given["providers"][0][1]["device_id"] for s in gpus.sessions] == ["0", "0", "1", "1", "2", "2"]
    for number, session in enumerate(gpus.sessions):
        # On the device that made them; the next session binds them as they are.
        kept = (
            {"hidden_out": f"cuda:{number // 2}"}
            if number < 5
            else dict.fromkeys(("score", "rewards", "gating"), "cpu")
        )
        assert session.fetched and all(fetched == kept for fetched in session.fetched)
        assert all(bound.get("hidden_in", 0) == (number > 0) for bound in session.bound)


def test_a_gpus_stages_in_turn(bundles: dict[str, Path], gpus: FakeOnnxRuntime) -> None:
    memory = 2 * largest_stage(bundles["fp32"])
    name, found = scores(bundles["fp32"], device="ort-cuda:1", stage_memory=memory)
    assert name == "ort-cuda in 6 stages in turn" and len(found) == 24
    with pytest.raises(BackendError, match="'auto': the memory that ort-cuda has here is not known"):
        RewardModel.load(bundles["fp32"], device="ort-cuda", stage_memory="auto")


def test_a_stage_that_a_gpu_has_no_room_for(bundles: dict[str, Path], gpus: FakeOnnxRuntime) -> None:
    cuda_driver.load_library().free = 100_000  # type: ignore[attr-defined] # the fake's
    with pytest.raises(DeviceMemoryError, match=r"layers-000-000.onnx.* GB too little.*--stages"):
        RewardModel.load(bundles["fp32"], device="cuda:0,cuda:1")
