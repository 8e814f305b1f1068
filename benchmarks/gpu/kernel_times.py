"""Which kernels a pass spends its time in: `python -m gpu.kernel_times BUNDLE [--dialect NAME] [--plan NAME]`, JSON.

torch's profiler reads the device's own clock (CUPTI), for all kernels of the process, ONNX Runtime's too. One pass of
ragged sequences of as many tokens as the engine takes, after two to warm up.
"""

import argparse
import json
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from gpu.plan import FULL, PLANS, Plan
from gpu.workloads import workloads

SHOWN = 40  # kernels, those with the most time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("--device", default="ort-cuda")
    parser.add_argument("--dialect")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--plan", choices=PLANS, default=FULL.name)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments, PLANS[arguments.plan])))


def measure(arguments: argparse.Namespace, plan: Plan) -> dict[str, Any]:
    """`seconds` of a pass by the host's clock, `kernels` by the device's: name, calls and microseconds."""
    from rmruntime import RewardModel, ScoreOptions

    records = _records(plan, arguments.tokens)
    options = ScoreOptions(max_batch_tokens=arguments.tokens)
    with RewardModel.load(arguments.bundle, device=arguments.device, dialect=arguments.dialect) as model:
        for _ in range(2):
            model.score(records, options)
        begin = time.perf_counter()
        model.score(records, options)
        seconds = time.perf_counter() - begin
        activities = [getattr(torch.profiler.ProfilerActivity, "CUDA" if torch.cuda.is_available() else "CPU")]
        with torch.profiler.profile(activities=activities) as profiler:
            model.score(records, options)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
    kernels = _kernels(profiler)
    return {
        "tokens": sum(len(record["input_ids"]) for record in records), "seconds": seconds,
        "device_us": sum(kernel["us"] for kernel in kernels), "kernels": kernels[:SHOWN],
    }  # fmt: skip


def _records(plan: Plan, tokens: int) -> list[dict[str, Any]]:
    """Ragged sequences of at most so many tokens together."""
    [ragged] = [workload for workload in workloads(plan, ("throughput",)) if workload.name == "ragged"]
    ids = [sequence for request in ragged.requests for sequence in request]
    fitting = np.cumsum([len(sequence) for sequence in ids]) <= tokens
    return [{"input_ids": sequence} for sequence, fits in zip(ids, fitting, strict=True) if fits]


def _kernels(profiler: Any) -> list[dict[str, Any]]:
    """By time, the longest first."""
    found: dict[str, list[float]] = defaultdict(list)
    for event in profiler.events():
        duration = getattr(event, "device_time_total", 0.0)
        if duration:
            found[event.name].append(float(duration))
    kernels = [{"name": name[:200], "calls": len(times), "us": sum(times)} for name, times in found.items()]
    return sorted(kernels, key=lambda kernel: -kernel["us"])


if __name__ == "__main__":
    main()
