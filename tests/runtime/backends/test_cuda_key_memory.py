"""Memory of a GPU for keys and values between passes: how much there is, on a GPU that is not there."""

from dataclasses import replace
from pathlib import Path

import pytest

from fake_cuda import GB, FakeDriver, FakeOnnxRuntime
from rmexport import ExportOptions
from rmruntime import RewardModel
from rmruntime.backends import backends, choose_engine, ort_cuda
from rmruntime.backends._cuda_key_memory import CudaKeyMemory, pass_token_bytes, token_bytes
from rmruntime.bundle import Bundle
from rmruntime.devices.cuda_driver import device_copies
from rmruntime.errors import BackendError, BundleError, DeviceMemoryError, EngineUnusable
from rmruntime.executors.cached import obstacle
from rmruntime.options import EngineOptions
from tampered_bundles import change_graphs, manifest_of, small_bundle, without_seal, write_manifest


def test_auto_is_a_quarter_of_what_is_left_on_the_gpu(tmp_path: Path, ort: FakeOnnxRuntime, driver: FakeDriver) -> None:
    bundle = small_bundle(tmp_path, 2)
    opened = Bundle.open(bundle)
    graph = next(g for g in opened.manifest.graphs if g.dialect == "ort-cuda").of_past()
    a_pass = ort_cuda.BATCH_TOKENS * (64 * opened.manifest.backbone.hidden_size * 4 + pass_token_bytes(opened, graph))
    for left, words in ((8 * GB, "of 2.0 GB"), (100 * GB, "of 4.0 GB")):
        driver.free = ort_cuda.ENGINE_BYTES + a_pass + left
        with RewardModel.load(bundle, device="ort-cuda", prefix_cache="auto") as model:
            assert (model.prefix_cache, model.batch_tokens) == (words, ort_cuda.BATCH_TOKENS)
    limit = ort_cuda.ENGINE_BYTES + a_pass // 2
    with RewardModel.load(bundle, device="ort-cuda", prefix_cache="auto", memory_limit=limit) as model:
        assert model.prefix_cache == "off, because no memory is left for it"
    with RewardModel.load(bundle, device="ort-cuda", prefix_cache="off") as model:
        assert model.prefix_cache == "" and model._executor.key_memories == []


def test_what_is_asked_for_is_taken_from_passes(tmp_path: Path, ort: FakeOnnxRuntime, driver: FakeDriver) -> None:
    bundle = small_bundle(tmp_path, 2)
    with RewardModel.load(bundle, device="ort-cuda", prefix_cache=3 * GB // 10, memory_limit=GB) as model:
        assert model.has_prefix_cache
        small = model.batch_tokens
    with RewardModel.load(bundle, device="ort-cuda", prefix_cache="auto", memory_limit=GB) as model:
        assert small < model.batch_tokens
    with pytest.raises(DeviceMemoryError, match="raise the memory limit"):
        RewardModel.load(bundle, device="ort-cuda", prefix_cache=GB, memory_limit=GB)


def test_a_memory_limit_counts_what_auto_keeps(tmp_path: Path, ort: FakeOnnxRuntime, driver: FakeDriver) -> None:
    """What ONNX Runtime may allocate itself is the limit without the weights and all keys and values."""
    bundle = small_bundle(tmp_path, 2, ExportOptions(dtype="fp32"))
    manifest = Bundle.open(bundle).manifest
    with RewardModel.load(bundle, device="ort-cuda", prefix_cache="auto", memory_limit=8 * GB) as model:
        [memory], graph, tokens = model._executor.key_memories, model._executor.graph, model.batch_tokens
    assert graph.attention == "rows" and memory.cache_tokens > 0
    keys = (memory.cache_tokens + tokens) * memory.token_bytes
    left = 8 * GB - manifest.weight_bytes(graph) - keys
    assert int(ort.sessions[-1].given["providers"][0][1]["gpu_mem_limit"]) == left


def test_pages_are_those_that_are_kept_and_those_of_a_pass(
    tmp_path: Path, ort: FakeOnnxRuntime, driver: FakeDriver
) -> None:
    opened = Bundle.open(small_bundle(tmp_path, 2, ExportOptions(dtype="bf16", stages=2)))
    graph = next(g for g in opened.manifest.graphs if g.dialect == "ort-cuda-paged").of_past()
    stage = graph.of_stage(graph.stages[1])
    assert graph.past is not None
    assert token_bytes(opened, graph) == 2 * token_bytes(opened, stage) == 2 * 2 * graph.past.features * 2
    session = FakeSessionOfPages(graph.page_size, graph.past.features)
    memory = CudaKeyMemory(ort, 0, opened, stage, tokens=1000, batch_tokens=600, session=session)
    assert memory.pages == 1000 // graph.page_size + -(-750 // graph.page_size)
    assert list(memory.page_values) == ["key_pages_1", "value_pages_1"]
    assert all(value.shape()[0] == memory.pages for value in memory.page_values.values())
    assert driver.copies == 2 and memory.names == ()
    ort.short_of_memory = True
    with pytest.raises(DeviceMemoryError, match=r"no memory on cuda:0 for keys and values \[.*smaller --prefix-cache"):
        CudaKeyMemory(ort, 0, opened, stage, tokens=1000, batch_tokens=600, session=session)


class FakeSessionOfPages:
    """What a session says of the second layer's pages."""

    def __init__(self, page_size: int, features: int) -> None:
        self.shape = ["pages", page_size, 1, features]

    def get_inputs(self) -> list["FakeSessionOfPages.Input"]:
        return [self.Input(name, self.shape) for name in ("key_pages_1", "value_pages_1")]

    class Input:
        def __init__(self, name: str, shape: list[object]) -> None:
            self.name, self.shape = name, shape


def test_tensorrt_says_that_it_has_none(tmp_path: Path) -> None:
    opened = Bundle.open(small_bundle(tmp_path, 1))
    graph = next(g for g in opened.manifest.graphs if g.dialect == "portable")
    choice = replace(choose_engine(opened, EngineOptions(device="ort-cpu")), module=backends()["tensorrt"], graph=graph)
    assert obstacle(opened, choice) == "tensorrt runs graphs of portable here, which have none with a past"


def test_pages_of_another_size_are_refused(tmp_path: Path, ort: FakeOnnxRuntime) -> None:
    bundle = small_bundle(tmp_path, 2, ExportOptions(dtype="bf16"))
    data = manifest_of(bundle)
    for graph in data["graphs"]:
        if graph["past"]:
            graph["past"]["features"] *= 2
    write_manifest(bundle, data)
    change_graphs(bundle, without_seal)
    with pytest.raises(BundleError, match=r"its key_pages_0 is no pages of \d+ keys of 64 bf16"):
        RewardModel.load(bundle, device="ort-cuda", prefix_cache="auto")


def test_a_copy_that_fails_says_so(driver: FakeDriver) -> None:
    driver.fails = {"cuMemcpyDtoDAsync_v2": 700}
    with pytest.raises(EngineUnusable, match="cuMemcpyDtoDAsync_v2"), device_copies(0) as device:
        device.copy(1, 2, 3)
    assert (driver.current, driver.contexts) == (0, 0)
    assert issubclass(EngineUnusable, BackendError)
