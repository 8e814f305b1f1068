"""What a pass does on the real CUDA provider: launches, copies, waits and allocations, held so that more would show."""

from typing import Any

import pytest

from conversations import ragged_records
from cuda_events import BundleOf, Events, Log
from rmruntime import RewardModel, ScoreOptions
from rmruntime.backends.ort_cuda import OWN_DIALECTS

pytestmark = pytest.mark.cuda_stub

ONE_PASS = ScoreOptions(max_batch_tokens=100_000)
RECORDS = ragged_records(24)
# At most, of one pass of a bf16 Llama with biases: kernels and products of each layer, copies both ways, and waits.
LIMITS = {
    "ort-cuda-paged": {"layer": 27, "h2d": 9, "d2h": 1, "waits": 2},
    "ort-cuda": {"layer": 43, "h2d": 22, "d2h": 1, "waits": 2},
}


def warm(model: RewardModel, records: list[dict[str, Any]]) -> None:
    """The arena has what a pass of these takes."""
    for _ in range(2):
        model.score(records, ONE_PASS)


@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_what_a_pass_takes(bundle_of: BundleOf, log: Log, dialect: str) -> None:
    limits, layers = LIMITS[dialect], {}
    for count in (2, 3):
        bundle = bundle_of(f"llama:num_hidden_layers={count}")
        with RewardModel.load(bundle, device="ort-cuda", dialect=dialect) as model:
            warm(model, RECORDS)
            with log() as events:
                model.score(RECORDS, ONE_PASS)
        layers[count] = events.launches
        assert len(events.copies("h2d")) <= limits["h2d"]
        assert len(events.copies("d2h")) <= limits["d2h"]
        assert events.waits <= limits["waits"]
    assert 0 < layers[3] - layers[2] <= limits["layer"]


@pytest.mark.parametrize(("dtype", "dialect"), [("bf16", "ort-cuda-paged"), ("bf16", "ort-cuda"), ("fp32", "ort-cuda")])
def test_passes_of_any_size_allocate_nothing_after_the_largest(
    bundle_of: BundleOf, log: Log, dtype: str, dialect: str
) -> None:
    """An allocation waits for the device, so that one a pass would show in every pass's time."""
    with RewardModel.load(bundle_of("llama", dtype), device="ort-cuda", dialect=dialect) as model:
        warm(model, RECORDS)
        with log() as events:
            for count in (1, 2, 3, 5, 8, 13, 17, 21, 24, 11, 4, 1, 24):
                model.score(RECORDS[-count:], ONE_PASS)
    assert events.launches and events.allocations == []


def test_a_shared_prompt_is_computed_once(bundle_of: BundleOf, log: Log) -> None:
    """The rows of the first product: tokens of the pass."""
    prompt = "the answer is number sum " * 60
    records = [{"prompt": prompt, "response": word} for word in ("good", "bad", "helpful", "honest")]
    with RewardModel.load(bundle_of("llama"), device="ort-cuda") as model:
        rows = []
        for some in (records[:1], records):
            with log() as events:
                model.score(some, ONE_PASS)
            rows.append(_largest_product(events))
    assert rows[0] <= rows[1] < 1.5 * rows[0]


def _largest_product(events: Events) -> int:
    """Of cuBLAS's n, which counts the rows of a product in row-major order."""
    return max(int(line.split()[3]) for line in events.lines if line.startswith("product "))
