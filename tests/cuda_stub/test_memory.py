"""Short memory on the real CUDA provider: passes are cut, nothing is lost, and what comes after runs as before."""

import ctypes
from pathlib import Path

import pytest

from conversations import ragged_records
from cuda_events import RUNTIME, BundleOf, Log
from rmruntime import DeviceLimit, RewardModel, Score, ScoreOptions
from rmruntime.backends import ort_cuda
from rmruntime.backends.ort_cuda import OWN_DIALECTS
from rmruntime.bundle import Bundle

pytestmark = pytest.mark.cuda_stub

RECORDS = ragged_records(96)
ONE_PASS = ScoreOptions(max_batch_tokens=100_000)
LEAST = 2 << 20  # bytes beside the weights, in which a single conversation fits and the whole pass does not


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of some MB, which would be refused for a real model."""
    monkeypatch.setattr(ort_cuda, "ENGINE_BYTES", 0)
    monkeypatch.setattr(ort_cuda, "LEAST_TOKENS", 1)


@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_a_limit_cuts_passes_and_loses_nothing(bundle_of: BundleOf, log: Log, any_size: None, dialect: str) -> None:
    """Limits rise until all is scored: the first that suffices must have cut the pass, those before leave a model that
    goes on.
    """
    bundle = bundle_of("llama")
    whole = scored(bundle, dialect, log, limit=None)
    assert whole is not None
    for step in range(40):
        found = scored(bundle, dialect, log, limit=weight_bytes(bundle, dialect) + int(LEAST * 1.2**step))
        if found is not None:
            assert step and found > whole
            return
    pytest.fail("no limit suffices")


def scored(bundle: Path, dialect: str, log: Log, *, limit: int | None) -> int | None:
    """How many passes RECORDS took; None where the memory did not suffice, after which one conversation must.

    The limit, of weights and passes together, is kept either way.
    """
    before = used_memory()
    with RewardModel.load(bundle, device="ort-cuda", dialect=dialect, memory_limit=limit) as model:
        try:
            with log() as events:
                found = model.score(RECORDS, ONE_PASS)
        except DeviceLimit:
            return None
        finally:
            [single] = model.score(RECORDS[:1], ONE_PASS)
            assert isinstance(single, Score)
            assert limit is None or used_memory() - before <= limit
    assert len(found) == len(RECORDS) and all(isinstance(score, Score) for score in found)
    return len(events.copies("d2h"))


@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_a_limit_counts_a_cache_of_auto(bundle_of: BundleOf, any_size: None, dialect: str) -> None:
    """Keys and values that are kept are none of those bytes that ONNX Runtime's own limit counts."""
    bundle = bundle_of("llama")
    limit = weight_bytes(bundle, dialect) + 64 * LEAST
    before = used_memory()
    with RewardModel.load(bundle, device="ort-cuda", dialect=dialect, memory_limit=limit, prefix_cache="auto") as model:
        assert model.has_prefix_cache
        for _ in range(2):
            found = model.score(RECORDS)
        assert len(found) == len(RECORDS) and all(isinstance(score, Score) for score in found)
        assert used_memory() - before <= limit


@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_a_device_that_is_full_cuts_passes_too(
    bundle_of: BundleOf, log: Log, monkeypatch: pytest.MonkeyPatch, dialect: str
) -> None:
    """No limit of ours, but cudaMalloc's own failure, while other processes use the device."""
    with RewardModel.load(bundle_of("llama"), device="ort-cuda", dialect=dialect) as model:
        model.score(RECORDS[:1], ONE_PASS)
        monkeypatch.setenv("STUB_MEMORY", str(used_memory()))
        with pytest.raises(DeviceLimit):
            model.score(RECORDS, ONE_PASS)
        assert len(model.score(RECORDS[:1], ONE_PASS)) == 1
        monkeypatch.undo()
        assert len(model.score(RECORDS, ONE_PASS)) == len(RECORDS)


def used_memory() -> int:
    """Bytes in use on the device."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ctypes.CDLL(RUNTIME).cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value


def weight_bytes(bundle: Path, dialect: str) -> int:
    manifest = Bundle.open(bundle).manifest
    [graph] = [graph for graph in manifest.graphs if graph.dialect == dialect]
    return manifest.weight_bytes(graph)
