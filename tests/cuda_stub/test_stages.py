"""Two stages on two devices of the stub, on the real CUDA provider."""

import pytest

from conversations import ragged_records
from cuda_events import BundleOf, Log
from rmruntime import EngineUnusable, RewardModel, Score, ScoreOptions
from rmruntime.backends.ort_cuda import OWN_DIALECTS
from rmruntime.records import parse_record

pytestmark = pytest.mark.cuda_stub

RECORDS = ragged_records(24)


@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_stages_share_two_devices(bundle_of: BundleOf, log: Log, monkeypatch: pytest.MonkeyPatch, dialect: str) -> None:
    """Each has weights and passes of its own; hidden states go from device to device, not through the host."""
    monkeypatch.setenv("STUB_DEVICES", "2")
    bundle, devices = bundle_of("llama", stages=2), "ort-cuda:0,ort-cuda:1"
    with log() as events, RewardModel.load(bundle, device=devices, dialect=dialect) as model:
        found = model.score(RECORDS, ScoreOptions(max_batch_tokens=400))
    assert len(found) == len(RECORDS) and all(isinstance(score, Score) for score in found)
    assert events.allocating_devices() == {0, 1}
    hidden = 2 * 64  # bytes of a token's hidden state in bf16
    assert any(size % hidden == 0 and size >= 100 * hidden for size in events.copies("d2d"))
    assert not any(size % hidden == 0 and size >= 100 * hidden for size in events.copies("d2h"))


@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_stages_keep_what_they_computed(bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, dialect: str) -> None:
    """Each has the keys and values of its own layers; by pages both name them by the same numbers."""
    monkeypatch.setenv("STUB_DEVICES", "2")
    requests = [parse_record(record) for record in RECORDS]
    bundle, devices = bundle_of("llama", stages=2), "ort-cuda:0,ort-cuda:1"
    with RewardModel.load(bundle, device=devices, dialect=dialect, prefix_cache=20_000_000) as model:
        first = model.run(requests, ScoreOptions()).statistics
        again = model.run(requests, ScoreOptions()).statistics
    assert first.passes and again.cached and again.computed < first.computed / 2


def test_a_device_that_is_not_there_is_named(bundle_of: BundleOf) -> None:
    with pytest.raises(EngineUnusable, match=r"there is no GPU cuda:1; CUDA sees cuda:0 \(Stub"):
        RewardModel.load(bundle_of("llama", stages=2), device="ort-cuda:0,ort-cuda:1")
