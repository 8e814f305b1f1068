"""The CUDA backend on a fake GPU: scores are real, of the graph that a real one would get; every refusal is told."""

import ctypes
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversations import ragged_records
from fake_cuda import CPU, CUDA, GB, FakeDriver, FakeOnnxRuntime, missing_driver
from rmexport import ExportOptions, export
from rmruntime import BackendError, EngineNotInstalled, EngineUnusable, RewardModel, Score, ScoreOptions
from rmruntime.backends import load_backend
from rmruntime.backends import ort_cuda as backend
from rmruntime.bundle import Bundle
from rmruntime.errors import DeviceMemoryError
from rmruntime.options import EngineOptions
from tiny_checkpoints import TinyShape, gated

OUT_OF_MEMORY = RuntimeError(
    "Non-zero status code returned while running Gemm node. Status Message: bfc_arena.cc:359 AllocateRawInternal "
    "Failed to allocate memory for requested buffer of size 4294967296"
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ort-cuda")
    checkpoint = str(gated(folder / "checkpoint", TinyShape(num_hidden_layers=2)).folder)
    for dtype in ("fp32", "bf16", "fp16"):
        export(checkpoint, folder / dtype, ExportOptions(dtype=dtype))  # type: ignore[arg-type] # one of its choices
    return {dtype: folder / dtype for dtype in ("fp32", "bf16", "fp16")}


def values(found: Any) -> np.ndarray:
    return np.array([score.value for score in found if isinstance(score, Score)])


def expected(bundle: Path, count: int = 12) -> np.ndarray:
    with RewardModel.load(bundle, device="ort-cpu") as model:
        return values(model.score(ragged_records(count)))


def only_graph(bundle: Path, dialect: str, **changes: Any) -> Bundle:
    """The bundle as if it had no other graph, and `changes` in its manifest."""
    opened = Bundle.open(bundle)
    graphs = tuple(graph for graph in opened.manifest.graphs if graph.dialect == dialect)
    return Bundle(opened.folder, replace(opened.manifest, graphs=graphs, **changes))


def obstacle(bundle: Bundle, **options: Any) -> str:
    """Why it cannot run, as the user is told who asks for this backend."""
    with pytest.raises(EngineUnusable) as caught:
        load_backend(bundle, EngineOptions(device="ort-cuda", **options))
    return str(caught.value)


def test_scores_of_the_graph_that_is_written_for_it(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    with RewardModel.load(bundles["fp32"], device="cuda:0") as model:
        found = values(model.score(ragged_records(12), ScoreOptions(max_batch_tokens=300)))
        assert (model.backend, model.precision) == ("ort-cuda", "fp32")
    np.testing.assert_allclose(found, expected(bundles["fp32"]), atol=2e-5)
    [session] = ort.sessions
    assert Path(session.path).name == "ort-cuda.fp32.packed.onnx"
    names = {value.name for value in session.get_inputs()}
    outputs = {value.name: "cpu" for value in session.get_outputs()}
    assert len(session.bound) > 1
    assert all(bound == dict.fromkeys(names, 1) for bound in session.bound)
    assert all(fetched == outputs for fetched in session.fetched)
    assert not any(session.tidied)


def test_fp32_is_fp32(bundles: dict[str, Path], ort: FakeOnnxRuntime, driver: FakeDriver) -> None:
    driver.count = 2
    RewardModel.load(bundles["fp32"], device="ort-cuda:1", memory_limit=5 * GB).close()
    [session] = ort.sessions
    [[provider, options]] = session.given["providers"]
    assert provider == CUDA and session.given["enable_fallback"] == 0
    weights = sum(f.size for f in Bundle.open(bundles["fp32"]).manifest.files if f.role == "weights")
    left = 5 * GB - int(options["gpu_mem_limit"])  # what onnxruntime does not count
    assert options["device_id"] == "1" and 0.9 * weights < left <= weights
    assert options["arena_extend_strategy"] == "kNextPowerOfTwo"
    assert options["use_tf32"] == "0" and options["enable_skip_layer_norm_strict_mode"] == "1"
    for key in ("session.use_device_allocator_for_initializers", "session.record_ep_graph_assignment_info"):
        assert session.settings.get_session_config_entry(key) == "1"
    assert not session.settings.enable_mem_pattern


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_fp32_of_16_bit_weights_widens_none_at_load(bundles: dict[str, Path], ort: FakeOnnxRuntime, dtype: str) -> None:
    with RewardModel.load(bundles[dtype], device="ort-cuda", precision="fp32") as model:
        assert model.precision == "fp32"
        np.testing.assert_allclose(values(model.score(ragged_records(12))), expected(bundles[dtype]), atol=2e-5)
    [session] = ort.sessions
    assert Path(session.path).name == "ort-cpu.fp32.packed.onnx"
    assert session.given["disabled_optimizers"] == ["ConstantFolding"]


def test_precisions() -> None:
    assert backend.compute_dtypes("bf16", "auto") == ("bf16", "fp32")
    assert backend.compute_dtypes("fp32", "auto") == ("fp32",)
    assert backend.compute_dtypes("bf16", "bf16") == ("bf16",)
    assert backend.compute_dtypes("bf16", "fp32") == ("fp32",)
    assert backend.compute_dtypes("bf16", "fp16") == backend.compute_dtypes("fp32", "bf16") == ()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_16_bit_bundles_have_their_own_graphs(bundles: dict[str, Path], ort: FakeOnnxRuntime, dtype: str) -> None:
    """Which one is opened; the CPU has no kernels for it."""
    ort.cannot_open = RuntimeError("stop here")
    for dialect, file in ((None, "ort-cuda-paged"), ("ort-cuda", "ort-cuda")):
        with pytest.raises(BackendError, match=rf"cannot load {file}\.{dtype}\.packed\.onnx for CUDA: stop here"):
            RewardModel.load(bundles[dtype], device="ort-cuda", dialect=dialect)


def test_without_a_driver_cuda_says_so_and_auto_takes_a_cpu(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", missing_driver)
    with pytest.raises(BackendError, match="no NVIDIA driver was found"):
        RewardModel.load(bundles["fp32"], device="cuda")
    assert obstacle(Bundle.open(bundles["fp32"])).startswith("no NVIDIA driver was found (libcuda")
    with RewardModel.load(bundles["fp32"]) as model:
        assert model.backend in ("openvino", "ort-cpu")


def test_every_engine_of_a_device_says_what_is_in_its_way(
    bundles: dict[str, Path], ort: FakeOnnxRuntime, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ort.built_with = (CPU,)
    with pytest.raises(EngineUnusable, match=r"^tensorrt: the bundle has no .*; ort-cuda: the installed onnxruntime"):
        RewardModel.load(bundles["fp32"], device="cuda")
    driver.count = 0
    with pytest.raises(EngineUnusable, match=r"^tensorrt and ort-cuda: the NVIDIA driver sees no GPU"):
        RewardModel.load(bundles["fp32"], device="cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineNotInstalled, match=r"rmruntime\[cpu\].*; tensorrt and ort-cuda: the NVIDIA driver sees"):
        RewardModel.load(bundles["fp32"])


def test_a_missing_package_is_named_with_its_extra(
    bundles: dict[str, Path], driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineNotInstalled, match=r"rmruntime\[cuda\]"):
        RewardModel.load(bundles["fp32"], device="ort-cuda")


def test_the_wheel_for_cpus_is_told_from_the_one_with_cuda(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    ort.built_with = (CPU,)
    assert "pip uninstall onnxruntime onnxruntime-gpu, then" in obstacle(Bundle.open(bundles["fp32"]))


def test_a_driver_for_an_older_cuda(bundles: dict[str, Path], ort: FakeOnnxRuntime, driver: FakeDriver) -> None:
    driver.version = 12080
    assert "supports CUDA 12.8, onnxruntime-gpu 1.31.1 needs CUDA 13" in obstacle(Bundle.open(bundles["fp32"]))
    ort.cuda_version = "12.9"  # a newer minor version runs on the driver of an older one
    load_backend(Bundle.open(bundles["fp32"]), EngineOptions(device="ort-cuda")).close()


def test_bf16_takes_a_gpu_that_has_it(bundles: dict[str, Path], ort: FakeOnnxRuntime, driver: FakeDriver) -> None:
    driver.capability = (7, 5)
    assert "compute capability 7.5, 100.0 GB) has no bf16" in obstacle(Bundle.open(bundles["bf16"]))
    RewardModel.load(bundles["bf16"], device="ort-cuda", precision="fp32").close()


def test_a_precision_without_a_graph_is_left_to_other_engines(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    assert "no graph that computes this fp32 bundle with precision 'bf16'" in obstacle(
        Bundle.open(bundles["fp32"]), precision="bf16"
    )
    assert not ort.sessions


def test_a_bundle_from_before_is_not_run_slowly_in_silence(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    old = only_graph(bundles["bf16"], "ort-cpu")
    assert "has no ort-cuda-paged or ort-cuda graph" in obstacle(old) and "export it again" in obstacle(old)
    load_backend(old, EngineOptions(device="ort-cuda", precision="fp32")).close()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_silent_fallback_to_the_cpu_is_refused(
    bundles: dict[str, Path], ort: FakeOnnxRuntime, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    """The CPU takes the first graph; of the second it says that it has no kernels, which is not the reason."""
    ort.missing = ("libcublasLt.so.13", "libcurand.so.10")
    with pytest.raises(EngineUnusable) as caught:
        RewardModel.load(bundles[dtype], device="ort-cuda")
    assert str(caught.value) == (
        "onnxruntime-gpu 1.31.1 cannot load its CUDA provider (libcublasLt.so.13: cannot open shared object file; "
        "libcurand.so.10: cannot open shared object file); it needs CUDA 13 and cuDNN 9: pip install 'rmruntime[cuda]' "
        "installs both"
    )
    assert capsys.readouterr().out == ""  # where scores may go


def test_no_node_of_a_graph_for_cuda_may_be_on_the_cpu(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    ort.on_host = ("Gather",)
    with pytest.raises(BackendError, match=r"no CUDA kernel for \d+ nodes of ort-cuda\.fp32.*Gather \(.*and \d+ more"):
        RewardModel.load(bundles["fp32"], device="ort-cuda")


def test_graphs_for_cpus_compute_sizes_on_the_host_and_nothing_else(
    bundles: dict[str, Path], ort: FakeOnnxRuntime
) -> None:
    for stray in ("Concat", "Gemm"):
        ort.on_host = (stray,)
        if stray == "Gemm":
            with pytest.raises(BackendError, match=r"of ort-cpu\.fp32.*Gemm \("):
                RewardModel.load(bundles["bf16"], device="ort-cuda", precision="fp32")
        else:
            RewardModel.load(bundles["bf16"], device="ort-cuda", precision="fp32").close()


def test_a_pass_is_as_large_as_the_memory_beside_the_weights(
    bundles: dict[str, Path], ort: FakeOnnxRuntime, driver: FakeDriver
) -> None:
    bundle = only_graph(bundles["fp32"], "ort-cuda")
    weights = sum(file.size for file in bundle.manifest.files if file.role == "weights")
    token = backend.TOKEN_VALUES["rows"] * bundle.manifest.backbone.hidden_size * 4
    for tokens, batch in ((10**6, 16384), (5000, 5000), (512, 512)):
        driver.free = weights + backend.ENGINE_BYTES + tokens * token
        loaded = load_backend(bundle, EngineOptions(device="ort-cuda"))
        assert loaded.batch_tokens == batch
        loaded.close()
    driver.free -= 1
    with pytest.raises(
        DeviceMemoryError, match=r"needs about 0\.5 GB of cuda:0 .*; 0\.5 GB may be used, 0\.0 GB too little\. Free"
    ):
        load_backend(bundle, EngineOptions(device="ort-cuda"))
    assert len(ort.sessions) == 3


def test_too_little_memory_says_how_much_it_takes(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    bundle = Bundle.open(bundles["bf16"])
    files = tuple(replace(f, size=16 * GB) if f.role == "weights" else f for f in bundle.manifest.files)
    large = Bundle(bundle.folder, replace(bundle.manifest, files=files))
    with pytest.raises(DeviceMemoryError, match=r"16\.0 GB for weights.*8\.0 GB may be used.*raise the memory limit"):
        load_backend(large, EngineOptions(device="ort-cuda", memory_limit=8 * GB))


def test_memory_that_ends_during_load(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    ort.cannot_open = RuntimeError("CUDA failure 2: out of memory ; GPU=0")
    with pytest.raises(DeviceMemoryError, match=r"cannot load ort-cuda\.fp32\.packed\.onnx for CUDA: CUDA failure 2"):
        RewardModel.load(bundles["fp32"], device="ort-cuda")


def test_a_pass_without_memory_is_split_and_nothing_is_lost(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    ort.failures = [OUT_OF_MEMORY]
    with RewardModel.load(bundles["fp32"], device="ort-cuda") as model:
        found = values(model.score(ragged_records(12)))
    np.testing.assert_allclose(found, expected(bundles["fp32"]), atol=2e-5)
    # memory that the large pass left behind goes back after the first half
    assert ort.sessions[0].tidied == [False, True, False]


@pytest.mark.parametrize(
    "message",
    [
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "CUDA_ERROR_OUT_OF_MEMORY",
        "Available memory of 1024 is smaller than requested bytes of 4096",
        str(OUT_OF_MEMORY),
    ],
)
def test_what_onnxruntime_says_when_memory_is_short(
    bundles: dict[str, Path], ort: FakeOnnxRuntime, message: str
) -> None:
    with pytest.raises(DeviceMemoryError, match=r"a pass of \d+ tokens"):
        fail(bundles["fp32"], ort, message)


def test_what_else_fails_a_pass(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    with pytest.raises(BackendError, match=r"failed on a pass of \d+ tokens: CUDA failure 700") as caught:
        fail(bundles["fp32"], ort, "CUDA failure 700: an illegal memory access was encountered")
    assert not isinstance(caught.value, DeviceMemoryError)
    with pytest.raises(EngineUnusable, match=r"libcudnn.*rmruntime\[cuda\]"):
        fail(bundles["fp32"], ort, "cuDNN is unavailable for CUDA Execution Provider: dlopen failed for libcudnn.so")


def fail(bundle: Path, ort: FakeOnnxRuntime, message: str) -> None:
    """One pass that fails with this message of onnxruntime's."""
    ort.failures = [RuntimeError(message)]
    loaded = load_backend(Bundle.open(bundle), EngineOptions(device="ort-cuda"))
    loaded.run({value.name: np.zeros((2,) * len(value.shape), np.int64) for value in ort.sessions[-1].get_inputs()})


def test_close_lets_go_of_the_session(bundles: dict[str, Path], ort: FakeOnnxRuntime) -> None:
    loaded = backend.load(
        Bundle.open(bundles["fp32"]),
        only_graph(bundles["fp32"], "ort-cuda").manifest.graphs[0],
        EngineOptions(device="ort-cuda"),
    )
    loaded.close()
    loaded.close()
    assert loaded._session is None and loaded._binding is None
