"""Graphs with a past on the real CUDA provider: it takes every node, and reads pages with FlashAttention."""

import pytest

from conversations import ragged_records
from cuda_events import BundleOf, Log
from rmruntime import RewardModel, ScoreOptions
from rmruntime.backends.ort_cuda import OWN_DIALECTS
from rmruntime.records import parse_record

pytestmark = pytest.mark.cuda_stub

FLASH = "flash_fwd_splitkv_kernel"
CACHE = 20_000_000


@pytest.mark.parametrize("backbone", ["llama", "gemma2", "llama_odd_heads", "llama_dynamic", "qwen3"])
@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_what_was_computed_is_not_again(bundle_of: BundleOf, log: Log, backbone: str, dialect: str) -> None:
    requests = [parse_record(record) for record in ragged_records(6)]
    with RewardModel.load(bundle_of(backbone), device="ort-cuda", dialect=dialect, prefix_cache=CACHE) as model:
        model.run(requests, ScoreOptions())
        with log() as events:
            again = model.run(requests, ScoreOptions()).statistics
        layers = model.manifest.backbone.num_layers
    assert again.cached and again.computed < again.given / 2
    flash = sum(count for kernel, count in events.kernels.items() if FLASH in kernel)
    assert flash == (layers if dialect == "ort-cuda-paged" else 0) * again.passes
