"""Stages on the CPU: what two of them cost over one graph, and an 8B bundle scored under a limit of memory.

First a 400M classifier of 16 layers: the whole graph, both of two stages on all cores one after the other, the stages
side by side (half of the cores each) and loaded in turn take turns in one process. Then an ArmoRM of 8B shape, whose
weights are more than the memory that a control group leaves: the same conversations are scored with and without the
limit, each in a process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_8b import conversation
from bench_checkpoints import write_armorm_8b
from bench_scoring import SHAPE as SMALL
from bench_scoring import write_checkpoint
from machine import banner, describe
from measured_process import measure

from rmexport import ExportOptions, export
from rmruntime import RewardModel, ScoreOptions
from rmruntime.backends import choose_backend
from rmruntime.backends.base import Feeds, Outputs
from rmruntime.bundle import Bundle
from rmruntime.executors.stage_group import StageSource, stages_of
from rmruntime.options import EngineOptions

GB = 10**9
BLOCK = 16 << 20  # bytes of a read that asks for the disk's own speed
COST_TARGET = 0.05
SHAPE = SMALL | {"hidden_size": 1536, "intermediate_size": 4608, "num_hidden_layers": 16, "num_attention_heads": 24}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 17 GB free")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("cost", "limit"))
    parser.add_argument("--limit", type=float, default=6.0, help="GB of the control group (default: 6)")
    parser.add_argument("--stage-memory", type=float, default=3.0, help="GB (default: 3)")
    parser.add_argument("--conversations", type=int, default=16)
    parser.add_argument("--length", type=int, default=64, help="tokens of a conversation (default: 64)")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--score", nargs=3, metavar=("BUNDLE", "BYTES", "OUTPUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.score:
        score(arguments)
        return
    print(banner())
    found: dict[str, Any] = {"machine": describe()}
    if arguments.only != "limit":
        found["cost"] = cost(arguments)
    if arguments.only != "cost":
        found["limit"] = limited(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def cost(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the same records in each way of running them, best of the repeats."""
    bundle = arguments.work / "llama-400m.stages"
    if not bundle.exists():
        checkpoint = write_checkpoint(arguments.work / "llama-400m", SHAPE)
        export(str(checkpoint), bundle, ExportOptions(weights="link", stages=2))
    weights = sum(file.size for file in Bundle.open(bundle).manifest.files if file.role == "weights")
    rng = np.random.default_rng(0)
    lengths = rng.integers(64, 512, 32)
    records = [{"input_ids": rng.integers(300, 600, int(n)).tolist()} for n in lengths]
    options = ScoreOptions(max_batch_tokens=512)
    models = {
        "whole": RewardModel.load(bundle, device="openvino"),
        "one after the other": one_after_the_other(bundle),
        "side by side": RewardModel.load(bundle, device="openvino,openvino"),
        "in turn": RewardModel.load(bundle, device="openvino", stage_memory=weights - 1),
    }
    values = {name: [s.value for s in model.score(records, options)] for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(arguments.repeats):
        for name, model in models.items():
            begin = time.perf_counter()
            model.score(records, options)
            seconds[name].append(time.perf_counter() - begin)
    for name, model in models.items():
        model.close()
        more = min(seconds[name]) / min(seconds["whole"]) - 1
        same = "same scores" if values[name] == values["whole"] else "OTHER SCORES"
        print(f"{name}: {min(seconds[name]):.2f} s for {int(lengths.sum())} tokens, {more:+.1%}, {same}", flush=True)
    print(f"wanted: at most {COST_TARGET:+.0%}")
    return {"tokens": int(lengths.sum()), "seconds": seconds}


class LoadedStages:
    """All stages of a bundle as one engine."""

    def __init__(self, bundle: Bundle, options: EngineOptions) -> None:
        module, self.graph = choose_backend(bundle, options, staged=True)
        source = StageSource(bundle=bundle, module=module, graph=self.graph)
        self._group = source.load(stages_of(self.graph), options)
        engine = self._group.engine
        self.name, self.precision, self.batch_tokens = engine.name, engine.precision, engine.batch_tokens

    def run(self, feeds: Feeds) -> Outputs:
        return self._group.run(feeds, None)

    def close(self) -> None:
        self._group.close()


def one_after_the_other(bundle: Path) -> RewardModel:
    opened = Bundle.open(bundle)
    return RewardModel(opened, LoadedStages(opened, EngineOptions(device="openvino")))


def limited(arguments: argparse.Namespace) -> dict[str, Any]:
    """The same scores with and without the limit, and how much of the disk's speed the loads reached."""
    bundle = arguments.work / "armorm-8b.stages"
    if not bundle.exists():
        export(str(write_armorm_8b(arguments.work / "armorm-8b")), bundle, ExportOptions(weights="link", stages=32))
    weights = [file for file in Bundle.open(bundle).manifest.files if file.role == "weights"]
    disk = disk_rate(bundle / weights[0].name)
    print(f"disk: {disk / GB:.2f} GB/s read past the page cache; weights {sum(f.size for f in weights) / GB:.1f} GB")
    found = {"disk": disk, "whole": run(arguments, bundle, limit=None), "limited": run(arguments, bundle, limit=1)}
    same = found["whole"]["scores"] == found["limited"]["scores"]
    one = found["limited"]
    rate = one["read"] / one["seconds"]
    print(
        f"limited to {arguments.limit:.1f} GB: {one['seconds']:.1f} s, {one['tokens'] / one['seconds']:.1f} tokens/s, "
        f"{one['read'] / GB:.1f} GB read at {rate / GB:.2f} GB/s, {rate / disk:.0%} of the disk; anonymous memory "
        f"{one['anonymous'] / GB:.2f} GB, resident {one['resident'] / GB:.2f} GB; "
        f"{'same scores' if same else 'OTHER SCORES'}",
        flush=True,
    )
    return found


def run(arguments: argparse.Namespace, bundle: Path, limit: int | None) -> dict[str, Any]:
    """A process that loads the bundle and scores, in a control group of `arguments.limit` GB or without one."""
    drop_from_cache(bundle)
    output = arguments.work / "scores.json"
    memory = 0 if limit is None else int(arguments.stage_memory * GB)
    command = [sys.executable, __file__, "--work", str(arguments.work), "--conversations", str(arguments.conversations)]
    command += ["--length", str(arguments.length), "--score", str(bundle), str(memory), str(output)]
    used = measure(command, limit=None if limit is None else int(arguments.limit * GB))
    found: dict[str, Any] = json.loads(output.read_text())
    print(
        f"{'limited' if limit else 'no limit'}: {used.seconds:.1f} s in all, {found['seconds']:.1f} s of scoring, "
        f"{used.anonymous / GB:.2f} GB anonymous, {used.resident / GB:.2f} GB resident ({found['backend']})",
        flush=True,
    )
    return found | {"anonymous": used.anonymous, "resident": used.resident}


def score(arguments: argparse.Namespace) -> None:
    """In the child: load, score, and write what was found."""
    bundle, memory, output = arguments.score
    with RewardModel.load(bundle, device="openvino", stage_memory=int(memory) or None) as model:
        records = [conversation(model, arguments.length, seed) for seed in range(arguments.conversations)]
        before, begin = bytes_read(), time.perf_counter()
        values = [score.value for score in model.score(records)]  # type: ignore[union-attr] # single conversations
        seconds = time.perf_counter() - begin
        found = {"scores": values, "seconds": seconds, "read": bytes_read() - before, "backend": model.backend}
    found["tokens"] = arguments.conversations * arguments.length
    Path(output).write_text(json.dumps(found))


def bytes_read() -> int:
    """What this process has had the disk read."""
    line = next(x for x in Path("/proc/self/io").read_text().splitlines() if x.startswith("read_bytes"))
    return int(line.split()[1])


def drop_from_cache(bundle: Path) -> None:
    for file in bundle.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk_rate(path: Path) -> float:
    """Bytes a second of reads in order that leave the page cache out (dd, as the buffer must be aligned)."""
    drop_from_cache(path.parent)
    command = ["dd", f"if={path}", "of=/dev/null", f"bs={BLOCK}", "count=192", "iflag=direct"]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return 192 * BLOCK / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
