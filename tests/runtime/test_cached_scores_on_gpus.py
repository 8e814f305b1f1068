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
from rmruntime import BackendError, DeviceLimit, RewardModel, ScoreOptions
from rmruntime.sequences import TokenSequence

QUICK = ("gemma2", "llama_dynamic", "qwen3_moe")
FEW_BYTES, MANY_BYTES = 60_000, 20_000_000  # evicts all the time, and never
FEW_PAGES, MANY_PAGES = 40, 2000
TOLERANCE = 1e-5
FAMILIES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.ladder) for n in BACKBONES]


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


def test_by_rows_in_stages_on_two_devices(tmp_path: Path, ort: FakeOnnxRuntime, driver: FakeDriver) -> None:
    driver.count = 2
    bundle, made = exported(tmp_path, "qwen3", ExportOptions(stages=2))
    wanted = expected(bundle, [s for call in made for s in call])
    with RewardModel.load(bundle, device="cuda:0,cuda:1", prefix_cache=MANY_BYTES) as model:
        assert len(model._executor.key_memories) == 2
        found = [output for call in made for output in outputs(model, call)]
        assert model.statistics.cached > 0
    np.testing.assert_allclose(values(found), wanted, atol=TOLERANCE)
    for session, device in zip(ort.sessions[-2:], ("cuda:0", "cuda:1"), strict=True):
        kept = {where for one in session.fetched for name, where in one.items() if name.startswith(("k_", "v_"))}
        assert kept == {device}


def test_a_pass_that_finds_no_memory_for_earlier_tokens_is_told(tmp_path: Path, ort: FakeOnnxRuntime) -> None:
    bundle, made = exported(tmp_path, "llama")
    wanted = expected(bundle, made[0])
    with RewardModel.load(bundle, device="cuda:0", prefix_cache=MANY_BYTES) as model:
        ort.short_of_memory = True
        [limited, *_] = model.stream_outputs(made[0], ScoreOptions())
        assert isinstance(limited, DeviceLimit) and "no memory on cuda:0 for keys and values" in str(limited)
        ort.short_of_memory = False
        np.testing.assert_allclose(values(outputs(model, made[0])), wanted, atol=TOLERANCE)


def test_passes_need_no_more_pages_than_there_are(tmp_path: Path) -> None:
    bundle, _ = exported(tmp_path, "llama")
    rng = np.random.default_rng(0)
    short = [one_of(rng.integers(3, 90, 20)) for _ in range(10)]
    wanted = expected(bundle, short)
    with paged_model(tmp_path / "c", bundle, tmp_path / "p", pages=9, tokens=0) as model:
        assert not model.has_prefix_cache
        found = outputs(model, short)  # of two pages each
        assert model.statistics.passes == 3
        np.testing.assert_allclose(values(found), wanted, atol=TOLERANCE)
        pool = model._executor.page_pool
        assert pool is not None
        taken = pool.take(6, lambda: False)  # as by what was packed meanwhile: passes are then cut
        np.testing.assert_allclose(values(outputs(model, short)), wanted, atol=TOLERANCE)
        assert model.statistics.passes > 6
        del taken
        [limited] = model.stream_outputs([one_of(rng.integers(3, 90, 9 * PAGE + 1))], ScoreOptions())
        assert isinstance(limited, DeviceLimit) and "it needs 10 pages of 16 keys, of 9 there are 9" in str(limited)


def test_a_pass_that_fails_keeps_no_pages(tmp_path: Path) -> None:
    bundle, made = exported(tmp_path, "llama")
    wanted = expected(bundle, made[0])
    with paged_model(tmp_path / "c", bundle, tmp_path / "p", pages=FEW_PAGES, tokens=160) as model:
        pool = model._executor.page_pool
        assert pool is not None
        model._executor._backend.failures.append(BackendError("it failed"))  # type: ignore[attr-defined]
        with pytest.raises(BackendError, match="it failed"):
            outputs(model, made[0])
        assert pool.free == FEW_PAGES
        np.testing.assert_allclose(values(outputs(model, made[0])), wanted, atol=TOLERANCE)


def one_of(ids: Any) -> TokenSequence:
    """Scored at its last token."""
    return TokenSequence(ids=ids.astype(np.int64), reads={"score": np.array([len(ids) - 1])})
