"""An ArmoRM checkpoint of 8B shape (14 GiB) through OpenVINO on the CPU: load, first score, memory, steady speed.

The share of the Gemm peak counts all tokens computed x 2 x the layers' matrix parameters, as if nothing were pruned;
the peak is measured in the same run, in a process of its own, before the model is loaded.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_checkpoints import write_armorm_8b
from machine import banner

from rmexport import ExportOptions, export
from rmexport.bench.gemm_peak import matmul_parameters, measure_gemm_peaks
from rmexport.bench.options import BenchOptions
from rmruntime import RewardModel
from rmruntime.bundle import Bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 15 GB free")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(banner())
    checkpoint, bundle = write_armorm_8b(arguments.work / "armorm-8b"), arguments.work / "armorm-8b.bundle"
    if not bundle.exists():
        export(str(checkpoint), bundle, ExportOptions(weights="link"))
    peak = next(p["flops"] for p in measure_gemm_peaks(BenchOptions()) if p["dtype"] == "bf16")
    measure(bundle, peak, arguments.repeats)


def measure(bundle: Path, peak: float, repeats: int) -> None:
    weights = sum(f.size for f in Bundle.open(bundle).manifest.files if f.role == "weights")
    begin = time.perf_counter()
    model = RewardModel.load(bundle, device="openvino")
    print(f"load: {time.perf_counter() - begin:.1f} s, {anonymous() / 2**30:.2f} GiB anonymous", flush=True)
    model.score([conversation(model, 64, 0)])
    took = time.perf_counter() - begin
    print(f"first score (64 tokens), load included: {took:.1f} s, {anonymous() / 2**30:.2f} GiB", flush=True)
    records = [conversation(model, 512, seed) for seed in range(4)]
    seconds = [timed(model, records) for _ in range(repeats + 1)][1:]
    share = 4 * 512 * 2 * matmul_parameters(Bundle.open(bundle)) / min(seconds) / peak
    print(
        f"4 conversations of 512 tokens: {min(seconds):.2f} s, {2048 / min(seconds):.0f} tokens/s, {share:.1%} of the "
        f"Gemm peak ({peak / 1e12:.2f} TFLOP/s); {anonymous() / 2**30:.2f} GiB anonymous, "
        f"{anonymous() / weights:.2f} x the weights",
        flush=True,
    )


def timed(model: RewardModel, records: list[dict[str, Any]]) -> float:
    begin = time.perf_counter()
    model.score(records)
    return time.perf_counter() - begin


def conversation(model: RewardModel, length: int, seed: int) -> dict[str, Any]:
    """Random ids with the gate's pattern in the middle."""
    gate = model.manifest.positions["gate"].tokens
    ids = np.random.default_rng(seed).integers(1000, 1500, length).tolist()
    middle = length // 2
    return {"input_ids": [*ids[:middle], *gate, *ids[middle + len(gate) :]]}


def anonymous() -> int:
    """Bytes of this process's anonymous memory."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
