"""Exports and verifies an 8B-shaped ArmoRM checkpoint (14 GiB of random weights) and prints time and memory.

Needs about 45 GB of disk under --work. Steps: inspect, link, copy, convert to fp16 against a plain copy, verify under a
6 GB memory limit.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from bench_checkpoints import write_armorm_8b
from machine import banner
from measured_process import Measured, measure

STEPS = ("link", "copy", "fp16", "verify")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder on a disk with 45 GB free")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--conversations", type=int, default=4, help="for verify; 8B in fp32 takes its time")
    parser.add_argument("--limit-gb", type=float, default=6.0, help="memory control group for verify; 0: none")
    arguments = parser.parse_args()
    print(banner())
    checkpoint = write_armorm_8b(arguments.work / "armorm-8b")
    size = sum(f.stat().st_size for f in checkpoint.glob("*.safetensors"))
    print(f"checkpoint: {size / 2**30:.2f} GiB in {len(list(checkpoint.glob('*.safetensors')))} shards")
    for step in arguments.steps:
        globals()[f"run_{step}"](checkpoint, arguments, size)


def rmexport(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "rmexport", *map(str, arguments)]


def report(name: str, m: Measured, size: int | None = None) -> None:
    rate = f", {size / m.seconds / 2**30:.2f} GiB/s" if size else ""
    print(
        f"{name}: {m.seconds:.2f} s, {m.anonymous / 2**20:.0f} MiB anonymous peak, "
        f"{m.resident / 2**20:.0f} MiB resident peak (files included){rate}",
        flush=True,
    )


def run_link(checkpoint: Path, arguments: argparse.Namespace, size: int) -> None:
    target = arguments.work / "bundle-link"
    shutil.rmtree(target, ignore_errors=True)
    report("export --weights link", measure(rmexport("export", checkpoint, target, "--weights", "link")))


def run_copy(checkpoint: Path, arguments: argparse.Namespace, size: int) -> None:
    target = arguments.work / "bundle-copy"
    shutil.rmtree(target, ignore_errors=True)
    report("export (copied, hashed)", measure(rmexport("export", checkpoint, target)), size)
    shutil.rmtree(target)


def run_fp16(checkpoint: Path, arguments: argparse.Namespace, size: int) -> None:
    """Alternates with a plain copy of the same bytes, both flushed to disk, so that both meet the same page cache."""
    target = arguments.work / "bundle-fp16"
    ratios = []
    for _ in range(2):
        shutil.rmtree(target, ignore_errors=True)
        copied = plain_copy(checkpoint, arguments.work / "plain-copy")
        m = measure(rmexport("export", checkpoint, target, "--dtype", "fp16"))
        ratios.append(copied / m.seconds)
        report("export --dtype fp16", m, size)
        print(f"plain copy of the same bytes: {copied:.2f} s; export runs at {ratios[-1]:.2f} of its speed", flush=True)
    shutil.rmtree(target)


def plain_copy(checkpoint: Path, target: Path, files: str = "*.safetensors") -> float:
    """Seconds of `cp` and fsync, the export's own promise."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    begin = time.perf_counter()
    for shard in sorted(checkpoint.glob(files)):
        measure(["cp", "--reflink=never", str(shard), str(target / shard.name)])
        with (target / shard.name).open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    shutil.rmtree(target)
    return seconds


def run_verify(checkpoint: Path, arguments: argparse.Namespace, size: int) -> None:
    target = arguments.work / "bundle-link"
    if not target.exists():
        run_link(checkpoint, arguments, size)
    limit = int(arguments.limit_gb * 1e9) or None
    options = ("--conversations", arguments.conversations, "--reference-cache", "off")  # what is timed is computed
    command = rmexport("verify", target, "--checkpoint", checkpoint, *options)
    report(
        f"verify ({arguments.conversations} conversations, limit {arguments.limit_gb} GB)",
        measure(command, limit=limit),
    )
    measured = json.loads((target / "parity.json").read_text())
    print(json.dumps({k: measured[k] for k in ("passed", "backend", "precision", "checks")}, indent=1))


if __name__ == "__main__":
    main()
