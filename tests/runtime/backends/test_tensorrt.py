"""The TensorRT backend on a machine that has neither GPU nor TensorRT: what it asks of them, and every refusal."""

import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from conversations import ragged_records
from fake_cuda_runtime import cudaError_t
from fake_tensorrt import DEVICE, ErrorCodeTRT, Machine, compile_engine, profile
from rmexport import export
from rmruntime import BackendError, BundleError, EngineNotInstalled, RewardModel, Score, ScoreOptions
from rmruntime.backends import backends, load_backend
from rmruntime.bundle import Bundle
from rmruntime.devices.cuda_driver import CudaDevice
from rmruntime.errors import DeviceLimit, DeviceMemoryError, EngineUnusable
from rmruntime.options import EngineOptions
from rmruntime.records import parse_record
from tiny_checkpoints import gated

RECORDS = ragged_records(12)
REBUILD = r"`rmexport compile \S+ --target tensorrt --overwrite`"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorrt")
    export(str(gated(folder / "checkpoint").folder), folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def expected(exported: Path) -> list[Score]:
    with RewardModel.load(exported, device="ort-cpu") as model:
        return [s for s in model.score(RECORDS) if isinstance(s, Score)]


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    machine.install(monkeypatch)
    yield machine
    assert not machine.cuda.device and not machine.cuda.host and not machine.cuda.streams  # whatever happened
    assert not machine.cuda.pending_error


def check_scores(found: list[Any], expected: list[Score]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.value == pytest.approx(other.value, abs=2e-6)  # fp32 in another order of operations
        assert one.rewards == pytest.approx(other.rewards, abs=2e-6)


@pytest.mark.parametrize("device", ["tensorrt", "cuda", "cuda:0", "auto"])
def test_scores_are_those_of_the_cpu(bundle: Path, machine: Machine, expected: list[Score], device: str) -> None:
    compile_engine(bundle)
    with RewardModel.load(bundle, device=device) as model:
        assert (model.backend, model.precision) == ("tensorrt", "fp32")
        check_scores(model.score(RECORDS), expected)
        check_scores(model.score(RECORDS[:1]), expected[:1])


def test_small_passes_take_the_small_profile(bundle: Path, machine: Machine, expected: list[Score]) -> None:
    """The engine's order does not matter; it is told of a profile only when that changes."""
    compile_engine(bundle)
    with RewardModel.load(bundle, device="tensorrt") as model:
        model.score(RECORDS[:1])
        model.score(RECORDS[1:2])
        assert machine.trt.switches == [1]
        check_scores(model.score(RECORDS), expected)
        assert machine.trt.switches == [1, 0]
        check_scores(model.score(RECORDS[:1]), expected[:1])
        assert machine.trt.switches == [1, 0, 1]


def test_the_engine_says_how_large_a_pass_had_best_be(bundle: Path, machine: Machine, expected: list[Score]) -> None:
    compile_engine(bundle, batch_tokens=200)
    with RewardModel.load(bundle, device="tensorrt") as model:
        check_scores(model.score(RECORDS), expected)
    sizes = [shapes["input_ids"][0] for shapes in machine.trt.shapes]
    assert len(sizes) > 1 and max(sizes) <= 200


def test_a_pass_beyond_all_profiles_is_cut(bundle: Path, machine: Machine, expected: list[Score]) -> None:
    compile_engine(bundle, profiles=(profile("only", 4096, 12),))
    with RewardModel.load(bundle, device="tensorrt") as model:
        run = model.run([parse_record(r) for r in RECORDS], ScoreOptions())
    check_scores(run.results, expected)
    assert run.statistics.passes == len(machine.trt.shapes) > 1
    assert all(shapes["query_index"][0] <= 12 for shapes in machine.trt.shapes)


def test_a_sequence_beyond_all_profiles_loses_its_own_score_alone(
    bundle: Path, machine: Machine, expected: list[Score]
) -> None:
    with RewardModel.load(bundle, device="ort-cpu") as model:
        lengths = [len(model.encode([parse_record(r)], ScoreOptions())[0][0].ids) for r in RECORDS]  # type: ignore[index]
    longest = int(np.argmax(lengths))
    compile_engine(bundle, profiles=(profile("only", sorted(lengths)[-2], 256),))
    with RewardModel.load(bundle, device="tensorrt") as model:
        results = model.run([parse_record(r) for r in RECORDS], ScoreOptions()).results
    refused = results.pop(longest)
    assert isinstance(refused, DeviceLimit)
    assert f"input_ids [{lengths[longest]}] (limit [{sorted(lengths)[-2]}])" in str(refused)
    check_scores(results, expected[:longest] + expected[longest + 1 :])


def test_inputs_have_the_types_of_the_engine(bundle: Path, machine: Machine, expected: list[Score]) -> None:
    names = ("input_ids", "key_index", "read_key_positions", "gate_index")
    compile_engine(bundle, plan={"dtypes": dict.fromkeys(names, "INT32")})
    with RewardModel.load(bundle, device="tensorrt") as model:
        check_scores(model.score(RECORDS), expected)


def test_outputs_of_16_bits_are_widened(bundle: Path, machine: Machine, expected: list[Score]) -> None:
    compile_engine(bundle, plan={"dtypes": {"score": "HALF"}})
    backend = load_backend(Bundle.open(bundle), EngineOptions(device="tensorrt"))
    with RewardModel(Bundle.open(bundle), backend) as model:
        found = model.score(RECORDS)
    np.testing.assert_allclose([s.value for s in found], [s.value for s in expected], rtol=2**-11)  # type: ignore[union-attr]


def test_every_thread_uses_the_device_that_was_asked_for(bundle: Path, machine: Machine, expected: list[Score]) -> None:
    machine.devices = (CudaDevice(index=0, name="Other", compute_capability=(8, 9), total_memory=1), DEVICE)
    compile_engine(bundle)
    found: list[Any] = []
    with RewardModel.load(bundle, device="cuda:1") as model:
        thread = Thread(target=lambda: found.extend(model.score(RECORDS)))
        thread.start()
        thread.join()
        check_scores(found, expected)
        check_scores(model.score(RECORDS), expected)
    assert set(machine.trt.devices) == {1}


def test_the_file_is_read_in_blocks(bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rmruntime.backends._tensorrt_engine.CHUNK", 100)
    record = compile_engine(bundle)
    RewardModel.load(bundle, device="tensorrt").close()
    assert sum(machine.trt.reads) == record.size and max(machine.trt.reads) == 100


def test_closing_frees_everything(bundle: Path, machine: Machine) -> None:
    compile_engine(bundle)
    model = RewardModel.load(bundle, device="tensorrt")
    model.score(RECORDS[:2])
    assert machine.cuda.device and machine.cuda.streams and machine.trt.alive == {"Runtime", "Engine", "Context"}
    model.close()
    assert not machine.trt.alive  # and the fixture looks at the memory


# What keeps an engine from being used.


def refusal(bundle: Path, device: str = "tensorrt", kind: type[BackendError] = EngineUnusable) -> str:
    with pytest.raises(kind) as caught:
        RewardModel.load(bundle, device=device)
    return str(caught.value)


def test_no_driver(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(index: int) -> CudaDevice:
        raise EngineUnusable("no NVIDIA driver was found")

    compile_engine(bundle)
    monkeypatch.setattr("rmruntime.backends.tensorrt.cuda_device", missing)
    assert refusal(bundle) == "no NVIDIA driver was found"
    with RewardModel.load(bundle) as model:  # auto
        assert model.backend != "tensorrt"


def test_no_engine(bundle: Path, machine: Machine) -> None:
    found = refusal(bundle)
    assert "no TensorRT engine; compile one for cuda:0 (NVIDIA H200, compute capability 9.0" in found
    assert f"`rmexport compile {bundle} --target tensorrt`" in found


def test_the_command_is_for_the_gpu_that_was_asked_for(bundle: Path, machine: Machine) -> None:
    machine.devices = (DEVICE, replace(DEVICE, index=1))
    assert "`CUDA_VISIBLE_DEVICES=1 rmexport compile" in refusal(bundle, "tensorrt:1")


FOREIGN = {
    "another GPU": ({"gpu": "NVIDIA H100"}, r"for NVIDIA H100 \(compute capability 9.0\), this is .*NVIDIA H200"),
    "another capability": ({"compute_capability": "8.9"}, r"capability 8.9\), this is .*capability 9.0"),
    "another version": ({"version": "10.15.2.1"}, r"by tensorrt 10.15.2.1, 10.15.1.29 is installed"),
    "another export": ({"manifest": "0" * 64}, r"before the bundle was exported as it is now"),
    "another graph": ({"graph": "ort-cpu.fp32.packed.onnx"}, r"from ort-cpu.fp32.packed.onnx, not portable.fp32"),
    "another library": ({"library": "torch_tensorrt"}, r"by 'torch_tensorrt', expected tensorrt or tensorrt_rtx"),
    "half an engine": ({"size": 10**9}, r"damaged: model.engine has \d+ bytes, expected 1000000000"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_engine(bundle: Path, machine: Machine, expected: list[Score], case: str) -> None:
    """It is refused with the command that makes another; one that can run hides it."""
    changed, message = FOREIGN[case]
    compile_engine(bundle, "foreign", **changed)  # type: ignore[arg-type] # fields of the record
    found = refusal(bundle)
    assert re.search(message, found), found
    assert re.search(REBUILD, found), found
    compile_engine(bundle, "zz-own")
    with RewardModel.load(bundle, device="tensorrt") as model:
        check_scores(model.score(RECORDS), expected)


def test_a_damaged_record_is_no_obstacle_to_another_engine(bundle: Path, machine: Machine) -> None:
    compile_engine(bundle, "a")
    (bundle / "engines/tensorrt/a/engine.json").write_text("{}")
    assert "is not the record of a compiled engine" in refusal(bundle)
    compile_engine(bundle, "b")
    RewardModel.load(bundle, device="tensorrt").close()


def test_the_largest_engine_is_taken(bundle: Path, machine: Machine) -> None:
    for name, tokens in (("a", 1024), ("b", 4096), ("c", 512)):
        compile_engine(bundle, name, batch_tokens=tokens)
    backend = load_backend(Bundle.open(bundle), EngineOptions(device="tensorrt"))
    assert backend.batch_tokens == 4096
    backend.close()


def test_engines_of_tensorrt_rtx_are_for_all_gpus_of_their_capabilities(
    bundle: Path, machine: Machine, expected: list[Score], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", machine.trt)
    compile_engine(bundle, library="tensorrt_rtx", gpu="any of these", compute_capability="8.9, 9.0")
    with RewardModel.load(bundle, device="tensorrt") as model:
        check_scores(model.score(RECORDS), expected)
    machine.devices = (replace(DEVICE, compute_capability=(10, 0)),)
    assert "compute capability 8.9, 9.0), this is" in refusal(bundle)


@pytest.mark.parametrize(("package", "extra"), [("tensorrt", "tensorrt"), ("cuda.bindings", "tensorrt")])
def test_a_package_is_missing(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    compile_engine(bundle)
    assert f"pip install 'rmruntime[{extra}]'" in refusal(bundle, kind=EngineNotInstalled)


def test_not_even_the_parent_package_of_the_bindings(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def without_cuda(name: str) -> Any:
        if name == "cuda.bindings":
            raise ModuleNotFoundError("No module named 'cuda'")
        return find(name)

    monkeypatch.setattr(importlib.util, "find_spec", without_cuda)
    compile_engine(bundle)
    assert "cuda-bindings" in refusal(bundle, kind=EngineNotInstalled)


def test_a_package_that_cannot_be_imported(bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    compile_engine(bundle)
    monkeypatch.setattr("rmruntime.backends.tensorrt.engine_module", broken)
    assert "tensorrt is installed and cannot be imported: libnvinfer" in refusal(bundle)


def test_a_precision_that_no_graph_has(bundle: Path, machine: Machine) -> None:
    compile_engine(bundle)
    assert "no graph that computes this fp32 bundle with precision 'bf16'" in str(obstacle(bundle, precision="bf16"))
    assert obstacle(bundle, precision="fp32") is None


def obstacle(bundle: Path, precision: str) -> BackendError | None:
    options = EngineOptions(device="cuda", precision=precision)
    return backends()["tensorrt"].obstacle(Bundle.open(bundle), options)


# What fails once an engine is being loaded, or runs.


def test_the_weights_do_not_fit(bundle: Path, machine: Machine) -> None:
    machine.cuda.capacity = 100
    record = compile_engine(bundle)
    found = refusal(bundle, kind=DeviceMemoryError)
    assert f"weights need {record.size / 1e9:.2f} GB" in found and "--max-batch-tokens" in found


def test_the_largest_pass_does_not_fit(bundle: Path, machine: Machine) -> None:
    compile_engine(bundle, plan={"activations": 7_250_000_000})
    assert "largest pass need 7.25 GB of the device's memory and 1.07 GB are free" in refusal(
        bundle, kind=DeviceMemoryError
    )


def test_a_limit_of_memory_holds_for_the_device(bundle: Path, machine: Machine) -> None:
    record = compile_engine(bundle, plan={"activations": 1000})
    options = EngineOptions(device="tensorrt", memory_limit=record.size + 999)
    with pytest.raises(DeviceMemoryError, match="largest pass"):
        load_backend(Bundle.open(bundle), options)
    load_backend(Bundle.open(bundle), replace(options, memory_limit=record.size + 1000)).close()


def test_tensorrt_finds_too_little_memory_itself(bundle: Path, machine: Machine) -> None:
    compile_engine(bundle, plan={"no_context": True})
    assert "Requested amount of GPU memory" in refusal(bundle, kind=DeviceMemoryError)


def test_an_engine_that_tensorrt_does_not_take(bundle: Path, machine: Machine) -> None:
    record = compile_engine(bundle)
    (bundle / "engines/tensorrt/sm90/model.engine").write_bytes(b"?" * record.size)
    assert refusal(bundle, kind=BackendError) == "tensorrt cannot load model.engine: magic tag does not match"


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"dtypes": {"score": "BF16"}}, "'score' as BF16 in device"),
        ({"host": ["input_ids"]}, "'input_ids' as INT64 in host"),
    ],
)
def test_tensors_that_cannot_be_served(bundle: Path, machine: Machine, plan: dict[str, Any], message: str) -> None:
    compile_engine(bundle, plan=plan)
    assert message in refusal(bundle, kind=BackendError)


def test_a_driver_older_than_the_package(bundle: Path, machine: Machine) -> None:
    compile_engine(bundle)
    machine.cuda.failures["cudaSetDevice"] = [cudaError_t.cudaErrorInsufficientDriver]
    assert "update the NVIDIA driver" in refusal(bundle, kind=BackendError)
    machine.cuda.cudaGetLastError()


def test_a_failing_pass_says_what_tensorrt_said(bundle: Path, machine: Machine, expected: list[Score]) -> None:
    compile_engine(bundle)
    machine.trt.refuse = [(ErrorCodeTRT.UNSPECIFIED_ERROR, "Error Code 1: Cuda Runtime (unspecified launch failure)")]
    with RewardModel.load(bundle, device="tensorrt") as model:
        with pytest.raises(BackendError, match=r"tensorrt cannot compute a pass: .*\(unspecified launch failure\)"):
            model.score(RECORDS)
        check_scores(model.score(RECORDS), expected)  # it had copies on their way


@pytest.mark.parametrize("message", ["Error Code 2: OutOfMemory (Requested size was 1 bytes.)", "allocation"])
def test_a_pass_without_memory_is_tried_in_halves(
    bundle: Path, machine: Machine, expected: list[Score], message: str
) -> None:
    code = ErrorCodeTRT.FAILED_ALLOCATION if message == "allocation" else ErrorCodeTRT.UNSPECIFIED_ERROR
    compile_engine(bundle)
    machine.trt.refuse = [(code, message)]
    with RewardModel.load(bundle, device="tensorrt") as model:
        run = model.run([parse_record(r) for r in RECORDS], ScoreOptions())
    check_scores(run.results, expected)
    assert run.statistics.passes == 2


def test_what_one_pass_said_is_not_held_against_the_next(bundle: Path, machine: Machine) -> None:
    code = ErrorCodeTRT.UNSPECIFIED_ERROR
    compile_engine(bundle)
    machine.trt.refuse = [(code, "OutOfMemory"), (code, "launch failure")]
    with RewardModel.load(bundle, device="tensorrt") as model:
        [limit] = model.run([parse_record(RECORDS[0])], ScoreOptions()).results
        assert isinstance(limit, DeviceLimit) and "OutOfMemory" in str(limit)
        with pytest.raises(BackendError, match=r"a pass: launch failure$"):
            model.score(RECORDS[:1])


def test_no_room_for_the_inputs(bundle: Path, machine: Machine, expected: list[Score]) -> None:
    compile_engine(bundle)
    with RewardModel.load(bundle, device="tensorrt") as model:
        machine.cuda.failures["cudaMalloc"] = [cudaError_t.cudaErrorMemoryAllocation]
        run = model.run([parse_record(r) for r in RECORDS], ScoreOptions())
        assert run.statistics.passes == 2
        machine.cuda.failures["cudaHostAlloc"] = [cudaError_t.cudaErrorMemoryAllocation] * 9
        model._executor._backend._engine._staged_inputs.close()  # type: ignore[attr-defined] # it must allocate again
        assert all(isinstance(r, DeviceLimit) for r in model.run([parse_record(RECORDS[0])], ScoreOptions()).results)
    check_scores(run.results, expected)


def test_an_error_of_the_device_shows_when_it_is_waited_for(bundle: Path, machine: Machine) -> None:
    compile_engine(bundle)
    with RewardModel.load(bundle, device="tensorrt") as model:
        success, bad = cudaError_t.cudaSuccess, cudaError_t.cudaErrorIllegalAddress
        machine.cuda.failures["cudaStreamSynchronize"] = [success, bad]
        with pytest.raises(BackendError, match="cudaStreamSynchronize, cudaError 700"):
            model.score(RECORDS[:1])
        machine.cuda.cudaGetLastError()


def test_closing_does_not_hide_why_a_device_was_lost(bundle: Path, machine: Machine) -> None:
    """Every call fails from then on, those that free among them."""
    compile_engine(bundle)
    with pytest.raises(BackendError, match="cudaStreamSynchronize, cudaError 700"):
        with RewardModel.load(bundle, device="tensorrt") as model:
            for function in ("cudaSetDevice", "cudaStreamSynchronize", "cudaFree", "cudaFreeHost", "cudaStreamDestroy"):
                machine.cuda.failures[function] = [cudaError_t.cudaErrorIllegalAddress] * 9
            machine.cuda.failures["cudaSetDevice"].insert(0, cudaError_t.cudaSuccess)
            model.score(RECORDS[:1])
    assert not machine.trt.alive


def test_a_pass_without_an_input_that_the_engine_has(bundle: Path, machine: Machine) -> None:
    compile_engine(bundle)
    backend = load_backend(Bundle.open(bundle), EngineOptions(device="tensorrt"))
    with pytest.raises(BackendError, match="needs the input"):
        backend.run({"input_ids": np.array([1])})
    backend.close()


def test_a_full_check_reads_the_engine_too(bundle: Path, machine: Machine) -> None:
    """A stranger with the right size and record: only its hash tells."""
    compile_engine(bundle, sha256="0" * 64)
    RewardModel.load(bundle, device="tensorrt").close()
    with pytest.raises(BundleError, match="another content than when it was compiled"):
        RewardModel.load(bundle, device="tensorrt", check="full")
