"""Every family in every dtype and dialect: the real CUDA provider takes every node, and runs a pass."""

import pytest

from backbone_shapes import BACKBONES, ROUTED
from conversations import ragged_records
from cuda_events import BundleOf, Log
from rmruntime import BackendError, RewardModel, Score
from rmruntime.backends import choose_engine
from rmruntime.backends.ort_cuda import OWN_DIALECTS
from rmruntime.bundle import Bundle
from rmruntime.options import EngineOptions

pytestmark = pytest.mark.cuda_stub

CASES = [
    (dtype, dialect)
    for dtype in ("bf16", "fp16", "fp32")
    for dialect in OWN_DIALECTS
    if (dtype, dialect) != ("fp32", "ort-cuda-paged")
]
FLASH = "flash_fwd_splitkv_kernel"


@pytest.mark.parametrize("backbone", [*BACKBONES, "internlm2"])
@pytest.mark.parametrize(("dtype", "dialect"), CASES)
def test_loads_and_runs(bundle_of: BundleOf, log: Log, backbone: str, dtype: str, dialect: str) -> None:
    """Loading checks that every node is on the GPU. Routed experts go no further than to the first size that the device
    computes, which is zero on a stub.
    """
    bundle = bundle_of(backbone, dtype)
    with log() as events, RewardModel.load(bundle, device="ort-cuda", dialect=dialect) as model:
        if backbone in ROUTED:
            with pytest.raises(BackendError, match=r"running (Reshape|Expand|Range) node"):
                model.score(ragged_records(6))
            return
        found = model.score(ragged_records(6))
    assert len(found) == 6 and all(isinstance(score, Score) for score in found)
    flash = sum(count for kernel, count in events.kernels.items() if FLASH in kernel)
    layers = Bundle.open(bundle).manifest.backbone.num_layers
    # The scored tokens of the last layer may attend by rows.
    assert flash in ((layers - 1, layers) if dialect == "ort-cuda-paged" else (0,))


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("dialect", OWN_DIALECTS)
def test_quantized_bundles_load_and_run(bundle_of: BundleOf, log: Log, scheme: str, dialect: str) -> None:
    """Loading checks the placement."""
    bundle = bundle_of("qwen2", "bf16", quantize=scheme)
    with RewardModel.load(bundle, device="ort-cuda", dialect=dialect) as model:
        assert len(model.score(ragged_records(6))) == 6


@pytest.mark.parametrize("head_dim", [64, 96, 128, 192, 256])
def test_pages_of_every_head_size_are_flash_attentions(bundle_of: BundleOf, log: Log, head_dim: int) -> None:
    """Pages smaller than its blocks would be gathered, and attended to by another kernel."""
    bundle = bundle_of(f"qwen3:head_dim={head_dim}")
    with log() as events, RewardModel.load(bundle, device="ort-cuda") as model:
        model.score(ragged_records(6))
    assert any(FLASH in kernel for kernel in events.kernels)
    assert not any("GatherAndExpandPagedKVCache" in kernel for kernel in events.kernels)


def test_16_bits_attend_by_pages_unasked(bundle_of: BundleOf) -> None:
    for dtype, attention in (("bf16", "pages"), ("fp16", "pages"), ("fp32", "rows")):
        with RewardModel.load(bundle_of("llama", dtype), device="cuda") as model:
            assert (model.backend, model.precision) == ("ort-cuda", dtype)
        choice = choose_engine(Bundle.open(bundle_of("llama", dtype)), EngineOptions(device="cuda"))
        assert choice.graph.attention == attention
