"""The only fp8 product that the CUDA provider has, GemmFloat8: what it asks of cuBLASLt, and what each product costs.

The reasons why no graph has fp8 activations (docs/performance.md). A release in which one of these fails may have a
product that is worth using.
"""

import pytest
import torch
from gpu.probe_graph import CONTRIB, TYPES, ProbeGraph

from cuda_events import Events, Log

pytestmark = pytest.mark.cuda_stub

E4M3 = 28  # cudaDataType_t
RESULTS = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 14}  # the same
FP32_SUMS, BF16_PRODUCTS = 68, 75  # cublasComputeType_t: CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_16BF
WORKSPACE = 1 << 25  # bytes


@pytest.mark.parametrize(
    ("dtype", "compute"),
    [(torch.float32, FP32_SUMS), (torch.float16, FP32_SUMS), (torch.bfloat16, BF16_PRODUCTS)],
)
def test_bf16_results_are_asked_for_in_a_way_that_has_no_fp8(log: Log, dtype: torch.dtype, compute: int) -> None:
    """cuBLASLt lists CUBLAS_COMPUTE_32F alone for fp8."""
    found = run(log, dtype)
    assert [line for line in found.lines if line.startswith("types ")] == [
        f"types {compute} {E4M3} {E4M3} {RESULTS[dtype]}"
    ] * found.kernels["LtMatmul"]


def test_every_product_waits_for_the_device_and_allocates(log: Log) -> None:
    found = run(log, torch.float16)
    products = found.kernels["LtMatmul"]
    assert products and found.allocations.count(WORKSPACE) == products
    assert found.waits > products


def run(log: Log, dtype: torch.dtype) -> Events:
    """Some runs of one product."""
    graph = ProbeGraph("cuda")
    x, weight = (torch.zeros((n, 64)).to(torch.float8_e4m3fn) for n in (16, 32))
    inputs = [graph.input("x", x), graph.input("weight", weight)]
    [y] = graph.ops("GemmFloat8", inputs, domain=CONTRIB, transB=1, dtype=int(TYPES[dtype]))
    graph.output(y, torch.empty((16, 32), dtype=dtype))
    with log() as events:
        graph.seconds()
    return events
