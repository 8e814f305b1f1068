"""What the device gives at best, through torch: products and a copy. `python -m gpu.ceilings` prints JSON."""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch

from gpu.plan import FULL, PLANS, Plan

WARM_UP, TRIALS = 3, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", choices=PLANS, default=FULL.name)
    print(json.dumps(measure(PLANS[parser.parse_args().plan])))


def measure(plan: Plan) -> dict[str, Any]:
    """`gemm` of the square product and of the big shape's layers in FLOP/s, `copy` in bytes/s, read and written.

    On random data: zeros run faster, and say nothing. `best` is the largest of `gemm`, the ceiling that shares are of.
    """
    hidden, inner = plan.big.config["hidden_size"], plan.big.config["intermediate_size"]
    key = plan.big.config["num_key_value_heads"] * plan.big.head_dim
    n, m = plan.gemm_square, plan.gemm_tokens
    sizes = {  # rows, inputs, outputs
        "square": (n, n, n), "q_proj": (m, hidden, hidden), "k_proj": (m, hidden, key),
        "qkv fused": (m, hidden, hidden + 2 * key), "gate_proj": (m, hidden, inner),
        "gate and up fused": (m, hidden, 2 * inner), "down_proj": (m, inner, hidden),
    }  # fmt: skip
    found = {name: _product(plan.torch_device, *size) for name, size in sizes.items()}
    return {
        "gemm": found, "best": max(found.values()), "sizes": sizes, "copy": _copy(plan.torch_device, plan.copy_bytes),
        "dtype": "bf16", "with": f"torch {torch.__version__}, mean of {TRIALS} after {WARM_UP}",
    }  # fmt: skip


def _product(device: str, rows: int, inputs: int, outputs: int) -> float:
    """FLOP/s of activations times a weight stored [out, in], as checkpoints store it."""
    a = torch.randn((rows, inputs), device=device, dtype=torch.bfloat16)
    b = torch.randn((outputs, inputs), device=device, dtype=torch.bfloat16)
    return 2.0 * rows * inputs * outputs / _seconds(lambda: torch.nn.functional.linear(a, b), device)


def _copy(device: str, nbytes: int) -> float:
    a = torch.randint(0, 255, (nbytes,), device=device, dtype=torch.uint8)
    b = torch.empty_like(a)
    return 2.0 * nbytes / _seconds(lambda: b.copy_(a), device)


def _seconds(run: Callable[[], Any], device: str) -> float:
    """Mean of successive calls, as a model makes them."""
    for _ in range(WARM_UP):
        run()
    _wait(device)
    begin = time.perf_counter()
    for _ in range(TRIALS):
        run()
    _wait(device)
    return (time.perf_counter() - begin) / TRIALS


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
