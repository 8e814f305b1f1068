"""Engines compute quantized bundles in the bundle's arithmetic, with narrow weights, and batches change no score."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from conversations import ragged_records
from fake_cuda import FakeDriver, FakeOnnxRuntime
from rmexport import ExportOptions, export
from rmruntime import RewardModel, ScoreOptions
from rmruntime.backends import load_backend, openvino, ort_cpu, ort_cuda
from rmruntime.backends.openvino import openvino_core
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph, Scheme
from rmruntime.devices import cuda_driver
from rmruntime.errors import DeviceMemoryError
from rmruntime.options import EngineOptions
from tiny_checkpoints import TinyShape, sequence_classifier

SHAPE = TinyShape(num_hidden_layers=2)
PARAMETERS = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96)  # of linear layers


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Scheme], Path]:
    """By dtype and scheme."""
    folder, found = tmp_path_factory.mktemp("quantized"), {}
    checkpoint = str(sequence_classifier(folder / "c", SHAPE).folder)
    for dtype in ("fp32", "bf16"):
        for scheme in get_args(Scheme):
            found[dtype, scheme] = folder / f"{dtype}-{scheme}"
            export(checkpoint, found[dtype, scheme], ExportOptions(dtype=dtype, quantize=scheme))
    return found


@pytest.mark.parametrize(
    ("device", "dtype", "scheme"),
    [
        ("ort-cpu", "fp32", "int8"),
        ("ort-cpu", "bf16", "int4"),
        ("ort-cpu", "fp32", "fp8"),
        ("openvino", "fp32", "int8"),
        ("openvino", "fp32", "int4"),
        ("openvino", "bf16", "int8"),
        ("openvino", "bf16", "int4"),
    ],
)
def test_a_score_does_not_depend_on_its_batch(
    bundles: dict[tuple[str, Scheme], Path], device: str, dtype: str, scheme: Scheme
) -> None:
    """Bitwise, for passes of one token and of 128 and one too, whose last row MatMulNBits would sum otherwise."""
    tokens = np.random.default_rng(0).integers(5, 60, 129).tolist()
    records = [*ragged_records(9, 3), {"input_ids": [7]}, {"input_ids": [7, 8]}, {"input_ids": tokens}]
    with RewardModel.load(bundles[dtype, scheme], device=device, threads=2) as model:  # which share a product's rows
        alone = [model.score([record])[0] for record in records]
        for budget in (4096, 200):
            assert model.score(records, ScoreOptions(max_batch_tokens=budget)) == alone, budget


@pytest.mark.parametrize(("scheme", "held"), [("int8", "i8"), ("int4", "u4")])
def test_openvino_keeps_weights_narrow(bundles: dict[tuple[str, Scheme], Path], scheme: Scheme, held: str) -> None:
    """The products of the last layer, which stands in no Scan, read codes; the inputs of none are rounded to 8 bits."""
    pytest.importorskip("openvino")
    settings = openvino._settings(Graph(file="", dialect="", compute_dtype="bf16"), EngineOptions())
    compiled = openvino_core().compile_model(bundles["bf16", scheme] / "openvino.bf16.packed.onnx", "CPU", settings)
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
    products = [op for op in compiled.get_runtime_model().get_ops() if layer_type(op) == "FullyConnected"]
    weights = [op.input(1).get_source_output().get_element_type().to_string() for op in products]
    assert sorted(weights) == sorted([*[held] * 5, "f32"])  # queries, output, gate, up and down; and the head


def layer_type(op: Any) -> str:
    found: str = op.get_rt_info()["layerType"].astype(str)
    return found


def test_what_onnxruntime_packs(bundles: dict[tuple[str, Scheme], Path]) -> None:
    """fp32 copies, or 4 bits and an fp32 scale for 32 of them."""
    manifests = {scheme: Bundle.open(bundles["bf16", scheme]).manifest for scheme in get_args(Scheme)}
    parameters = manifests["int8"].backbone.parameters
    found = {s: ort_cpu._heap_bytes(Bundle(Path(), m), m.graphs[0]) for s, m in manifests.items()}
    packed = PARAMETERS // 2 + 4 * PARAMETERS // 32
    assert found == {"int8": 4 * parameters, "fp8": 4 * parameters, "int4": 4 * (parameters - PARAMETERS) + packed}


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_short_memory_changes_scores_by_rounding_only(bundles: dict[tuple[str, Scheme], Path], scheme: Scheme) -> None:
    records = ragged_records(5)
    with RewardModel.load(bundles["bf16", scheme], device="ort-cpu") as model:
        expected = [score.value for score in model.score(records)]  # type: ignore[union-attr]
    with RewardModel.load(bundles["bf16", scheme], device="ort-cpu", memory_limit=1) as model:
        found = [score.value for score in model.score(records)]  # type: ignore[union-attr]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> FakeOnnxRuntime:
    """A GPU that is not there, of 16 GB."""
    driver, fake = FakeDriver(), FakeOnnxRuntime()
    monkeypatch.setattr(cuda_driver, "load_library", lambda: driver)
    monkeypatch.setattr(ort_cuda, "engine_module", lambda name: fake)
    return fake


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_nothing_is_widened_at_load_on_a_gpu(
    bundles: dict[tuple[str, Scheme], Path], ort: FakeOnnxRuntime, scheme: Scheme
) -> None:
    """And the graph for GPUs scores as that for CPUs does."""
    records = ragged_records(5)
    with RewardModel.load(bundles["fp32", scheme], device="ort-cuda") as model:
        found = [score.value for score in model.score(records)]  # type: ignore[union-attr]
    with RewardModel.load(bundles["fp32", scheme], device="ort-cpu") as model:
        expected = [score.value for score in model.score(records)]  # type: ignore[union-attr]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    [session] = ort.sessions
    assert session.given["disabled_optimizers"] == ["ConstantFolding"]


def test_a_gpu_needs_room_for_one_widened_matrix(bundles: dict[tuple[str, Scheme], Path], ort: FakeOnnxRuntime) -> None:
    bundle = Bundle.open(bundles["bf16", "int8"])
    assert ort_cuda._widened(bundle, 2) == 2 * 2 * 64 * 96
    with pytest.raises(DeviceMemoryError, match=r"or --quantize int8 or int4"):
        load_backend(bundle, EngineOptions(device="ort-cuda", memory_limit=1))
