"""Scores after cached prefixes that stay on a device: by rows on a fake GPU, by pages in ONNX's reference.

They are compared up to rounding: sums of other kernels are in another order where passes have other sizes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backbone_shapes import BACKBONES
from cached_calls import ROPE_LENGTH, calls, checkpoint_in, outputs
from fake_cuda import FakeDriver, FakeOnnxRuntime
from paged_engine import PAGE, paged_model
from rmexport import ExportOptions, export
from rmruntime import RewardModel
from rmruntime.backends import ort_cuda
from rmruntime.devices import cuda_driver
from rmruntime.sequences import TokenSequence

QUICK = ("gemma2", "llama_dynamic", "qwen3_moe")
FEW_BYTES, MANY_BYTES = 60_000, 20_000_000  # evicts all the time, and never
FEW_PAGES, MANY_PAGES = 40, 2000
TOLERANCE = 1e-5
FAMILIES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.ladder) for n in BACKBONES]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(cuda_driver, "load_library", lambda: fake)
    return fake


@pytest.fixture
def ort(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeOnnxRuntime:
    fake = FakeOnnxRuntime()
    monkeypatch.setattr(ort_cuda, "engine_module", lambda name: fake)
    return fake


def values(found: list[bytes]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([np.frombuffer(one, np.float32) for one in found])


def exported(folder: Path, name: str, options: ExportOptions | None = None) -> tuple[Path, list[list[TokenSequence]]]:
    export(str(checkpoint_in(folder / "c", name)), folder / "b", options or ExportOptions())
    longest = ROPE_LENGTH if name == "llama_dynamic" else 200
    return folder / "b", calls(sum(map(ord, name)), longest)


def expected(bundle: Path, sequences: list[TokenSequence]) -> np.ndarray[Any, np.dtype[np.float32]]:
    with RewardModel.load(bundle, device="ort-cpu") as model:
        return values(outputs(model, sequences))


@pytest.mark.parametrize("name", FAMILIES)
def test_by_rows(tmp_path: Path, ort: FakeOnnxRuntime, driver: FakeDriver, name: str) -> None:
    bundle, made = exported(tmp_path, name)
    flat = [s for call in made for s in call]
    wanted = expected(bundle, flat)
    for limit in (FEW_BYTES, MANY_BYTES):
        with RewardModel.load(bundle, device="cuda:0", prefix_cache=limit) as model:
            assert model.has_prefix_cache
            found = [output for call in made for output in outputs(model, call)]
            statistics = model.statistics
            np.testing.assert_allclose(values(found), wanted, atol=TOLERANCE)
            np.testing.assert_allclose(values(outputs(model, flat, budget=64)), wanted, atol=TOLERANCE)
        assert statistics.cached > 0 and driver.copies > 0
    session = ort.sessions[-1]
    assert session.path.endswith("ort-cuda.fp32.packed.past.onnx")
    assert {where for one in session.fetched for name, where in one.items() if name != "score"} == {"cuda:0"}


@pytest.mark.parametrize("name", FAMILIES)
def test_by_pages(tmp_path: Path, name: str) -> None:
    bundle, made = exported(tmp_path, name)
    flat = [s for call in made for s in call]
    wanted = expected(bundle, flat)
    for pages in (FEW_PAGES, MANY_PAGES):
        with paged_model(
            tmp_path / "c", bundle, tmp_path / f"p{pages}", pages=pages, tokens=pages * PAGE // 2
        ) as model:
            found = [output for call in made for output in outputs(model, call)]
            assert model.statistics.cached > 0
            np.testing.assert_allclose(values(found), wanted, atol=TOLERANCE)
            np.testing.assert_allclose(values(outputs(model, flat, budget=64)), wanted, atol=TOLERANCE)
            pool = model._executor.page_pool
            assert pool is not None and pool.free < pages
            model._loop._cache.clear()  # type: ignore[union-attr] # there is one
            assert pool.free == pages  # all passes have let go of theirs
