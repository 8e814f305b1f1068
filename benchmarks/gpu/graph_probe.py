"""What a CUDA graph would save: `python -m gpu.graph_probe BUNDLE [--dialect NAME] [--plan NAME]`, JSON.

One pass of one conversation again and again, launched kernel by kernel and as a captured graph. ONNX Runtime captures
for inputs of fixed shapes at fixed addresses, so conversations would have to be padded to a few lengths; this says
whether that would be worth it.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
import onnxruntime

from gpu.operator_probes import attempt
from gpu.plan import FULL, PLANS, Plan
from gpu.workloads import workloads
from rmruntime.batching.packing import pack, row_shape
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_names import PAGE_TABLE
from rmruntime.sequences import TokenSequence

INDEX_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
PAGE_TYPES = {"tensor(float16)": (np.float16, 10), "tensor(bfloat16)": (np.uint16, 16)}  # TensorProto.DataType
WAYS = {"kernel by kernel": "0", "CUDA graph": "1"}  # of enable_cuda_graph


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--dialect", default="ort-cuda-paged")
    parser.add_argument("--plan", choices=PLANS, default=FULL.name)
    arguments = parser.parse_args()
    onnxruntime.preload_dlls()  # cuBLAS and the like lie in packages of their own
    plan = PLANS[arguments.plan]
    found = [attempt(name, lambda way=way: _timed(arguments, plan, way)) for name, way in WAYS.items()]
    print(json.dumps({"found": found}))


def _timed(arguments: argparse.Namespace, plan: Plan, way: str) -> dict[str, Any]:
    """`p50_ms` and `p99_ms` of a pass, outputs on the device, and `tokens`."""
    bundle = Bundle.open(arguments.bundle)
    [graph] = [graph for graph in bundle.manifest.graphs if graph.dialect == arguments.dialect]
    [single] = [workload for workload in workloads(plan, ("latency",)) if workload.name == "single"]
    ids = np.array(single.requests[0][0])
    [read] = bundle.manifest.positions  # a classifier's only one
    feeds = pack([TokenSequence(ids=ids, reads={read: np.array([len(ids) - 1])})], row_shape(graph)).feeds
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    provider = ("CUDAExecutionProvider", {"enable_cuda_graph": way, "arena_extend_strategy": "kNextPowerOfTwo"})
    session = onnxruntime.InferenceSession(str(bundle.folder / graph.file), settings, providers=[provider])
    binding = _bound(session, feeds)
    times = []
    for _ in range(plan.warm_up + plan.single_samples):
        begin = time.perf_counter()
        session.run_with_iobinding(binding)
        times.append(1e3 * (time.perf_counter() - begin))
    times = sorted(times[plan.warm_up :])
    p50, p99 = (times[int(share * (len(times) - 1))] for share in (0.5, 0.99))
    return {"p50_ms": p50, "p99_ms": p99, "tokens": len(ids)}


def _bound(session: Any, feeds: Any) -> Any:
    """Everything at a fixed place on the device."""
    binding = session.io_binding()
    for value in session.get_inputs():
        if value.type in INDEX_TYPES:
            binding.bind_cpu_input(value.name, np.ascontiguousarray(feeds[value.name], INDEX_TYPES[value.type]))
        else:
            dtype, number = PAGE_TYPES[value.type]
            pages = np.zeros((int(feeds[PAGE_TABLE].max()) + 1, *value.shape[1:]), dtype)
            place = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(pages, number)
            binding.bind_ortvalue_input(value.name, place)
    for value in session.get_outputs():
        binding.bind_output(value.name, "cuda", 0)
    return binding


if __name__ == "__main__":
    main()
