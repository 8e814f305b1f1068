"""Short memory on the real CUDA provider: passes are cut, nothing is lost, and what comes after runs as before."""

from typing import Any

import pytest

from conversations import ragged_records
from cuda_events import BundleOf, Log
from rmruntime import RewardModel, Score, ScoreOptions
from rmruntime.backends import ort_cuda
from rmruntime.backends.ort_cuda import OWN_DIALECTS
from rmruntime.bundle import Bundle

pytestmark = pytest.mark.cuda_stub

RECORDS = ragged_records(96)
ONE_PASS = ScoreOptions(max_batch_tokens=100_000)


@pytest.fixture
def any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits of some MB, which would be refused for a real model."""
    monkeypatch.setattr(ort_cuda, "ENGINE_BYTES", 0)
    monkeypatch.setattr(ort_cuda, "LEAST_TOKENS", 1)


def scored(found: list[Any]) -> int:
    return sum(isinstance(score, Score) for score in found)


@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_a_limit_cuts_passes_and_loses_nothing(bundle_of: BundleOf, log: Log, any_size: None, dialect: str) -> None:
    bundle = bundle_of("llama")
    limit = weight_bytes(bundle_of, dialect) + LIMITS[dialect]
    with RewardModel.load(bundle, device="ort-cuda", dialect=dialect, memory_limit=limit) as model:
        with log() as events:
            assert scored(model.score(RECORDS, ONE_PASS)) == len(RECORDS)
        assert downloads(events) > downloads_of_one_pass(bundle_of, log, dialect)
        assert scored(model.score(RECORDS[:8])) == 8
