"""A script that times large matrix products and prints JSON; it needs the standard library, and torch or OpenVINO."""

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from typing import Any

SHAPE = (2048, 4096, 4096)  # m, k, n
WARM_UP, TRIALS = 2, 8


def main() -> None:
    """Print the peaks of every dtype of the first engine that is installed; arguments: threads, device."""
    threads, device = int(sys.argv[1]), sys.argv[2]
    probe = next((run for name, run in PROBES.items() if importlib.util.find_spec(name)), None)
    sys.stdout.write(json.dumps(probe(threads, device) if probe else []) + "\n")


def best_seconds(run: Callable[[], Any]) -> float:
    """The seconds of the fastest of several calls of `run`, after a warm-up.

    >>> best_seconds(lambda: None) < 1
    True
    """
    times = []
    for _ in range(WARM_UP + TRIALS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times[WARM_UP:])


def with_torch(threads: int, device: str) -> list[dict[str, Any]]:
    """The peaks of torch's linear layer, whose weight is [n, k] as in checkpoints."""
    torch: Any = importlib.import_module("torch")
    if threads:
        torch.set_num_threads(threads)
    m, k, n = SHAPE
    peaks = []
    for dtype, name in (("bf16", "bfloat16"), ("fp32", "float32")):
        a, b = (torch.randn(size, dtype=getattr(torch, name), device=device) for size in ((m, k), (n, k)))

        def product(a: Any = a, b: Any = b) -> None:
            torch.nn.functional.linear(a, b)
            if device == "cuda":
                torch.cuda.synchronize()

        peaks.append(peak(dtype, best_seconds(product), f"torch {torch.__version__}"))
    return peaks


def with_openvino(threads: int, device: str) -> list[dict[str, Any]]:
    """The peaks of OpenVINO's MatMul, with each precision hint."""
    openvino: Any = importlib.import_module("openvino")
    ops: Any = importlib.import_module("openvino.opset13")
    numpy: Any = importlib.import_module("numpy")
    m, k, n = SHAPE
    a = numpy.random.default_rng(0).standard_normal((m, k), dtype=numpy.float32)
    weight = numpy.random.default_rng(1).standard_normal((n, k), dtype=numpy.float32)
    node = ops.parameter([m, k], numpy.float32)
    model = openvino.Model([ops.matmul(node, ops.constant(weight), False, True)], [node])
    peaks = []
    for dtype, hint in (("bf16", "bf16"), ("fp32", "f32")):
        settings = {"INFERENCE_PRECISION_HINT": hint, **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()

        def product(request: Any = request) -> None:
            request.infer([a], share_inputs=True)

        seconds = best_seconds(product)
        peaks.append(peak(dtype, seconds, f"openvino {openvino.__version__}"))
    return peaks


def peak(dtype: str, seconds: float, engine: str) -> dict[str, Any]:
    """The report's record of a product of SHAPE that took `seconds`: 2 m k n operations.

    >>> peak("fp32", 1.0, "torch 2.13.0")["flops"]
    68719476736.0
    """
    m, k, n = SHAPE
    return {"dtype": dtype, "flops": 2.0 * m * k * n / seconds, "shape": list(SHAPE), "with": engine}


PROBES = {"torch": with_torch, "openvino": with_openvino}

if __name__ == "__main__":
    main()
