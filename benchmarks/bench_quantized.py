"""Bundles with quantized layers against the 16-bit bundle of the same checkpoint: speed, memory and scores.

A Llama classifier of 426M random parameters. Every contestant has a process of its own and they take turns on the same
conversations; what counts are medians, and the median of the turns' ratios. Memory is that which the process takes more
than before it loaded the bundle, anonymous + mapped from files (which the kernel can take back): with packed weights
after a pass of three tokens, and after all passes, activations included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench_scoring import write_checkpoint
from machine import banner, describe

BASE = "none"  # the scheme of the bundle that is not quantized
SEQUENCES, TOKENS = 4, 256


@dataclass
class Contestant:
    """A process with one bundle loaded; it scores when it is told to."""

    scheme: str
    process: subprocess.Popen[str]
    seconds: list[float] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    def turn(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write("score\n")
        self.process.stdin.flush()
        self.found = json.loads(self.process.stdout.readline())
        self.seconds.append(self.found["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 4 GB free")
    parser.add_argument("--schemes", default="int8,int4", help="as --quantize has them (default: int8,int4)")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--device", default="openvino")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)  # a contestant's own process
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.device)
        return
    print(banner())
    rows = measured(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    checkpoint = write_checkpoint(arguments.work / "llama-426m")
    contestants = [started(checkpoint, scheme, arguments) for scheme in (BASE, *arguments.schemes.split(","))]
    for contestant in contestants:  # packs the weights
        contestant.turn()
        contestant.seconds.clear()
    for _ in range(arguments.turns):
        for contestant in contestants:
            contestant.turn()
    rows = [row(contestant, contestants[0]) for contestant in contestants]
    for contestant in contestants:
        contestant.process.communicate("")
    return rows


def started(checkpoint: Path, scheme: str, arguments: argparse.Namespace) -> Contestant:
    from rmexport import ExportOptions, export

    bundle = arguments.work / f"llama-426m-{arguments.dtype}-{scheme}.bundle"
    if not bundle.exists():
        begin = time.perf_counter()
        quantize: Any = None if scheme == BASE else scheme
        export(str(checkpoint), bundle, ExportOptions(dtype=arguments.dtype, quantize=quantize))
        print(f"{bundle.name} exported in {time.perf_counter() - begin:.1f} s", flush=True)
    command = [sys.executable, __file__, "--work", arguments.work, "--serve", bundle, "--device", arguments.device]
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return Contestant(scheme, process)


def row(contestant: Contestant, base: Contestant) -> dict[str, Any]:
    """One line of the table, printed."""
    ratios = [own / theirs for own, theirs in zip(contestant.seconds, base.seconds, strict=True)]
    seconds, ratio = statistics.median(contestant.seconds), statistics.median(ratios)
    scores, expected = (np.array(x.found["scores"]) for x in (contestant, base))
    found, error = contestant.found, np.abs(scores - expected)
    best = min(contestant.seconds) / min(base.seconds)
    print(
        f"{contestant.scheme}: {seconds:.3f} s ({found['tokens'] / seconds:.0f} tokens/s), {ratio:.3f} of the base's "
        f"time ({best:.3f} at best)\n"
        f"  memory with packed weights {in_words(found['packed'])}, after passes {in_words(found['after'])}\n"
        f"  scores differ by {error.mean():.4f} on average, {error.max():.4f} at most; deviation {expected.std():.4f}",
        flush=True,
    )
    return {
        "scheme": contestant.scheme,
        "seconds": contestant.seconds,
        "ratios": ratios,
        "memory": {"packed": found["packed"], "after": found["after"]},
        "error": {"mean": float(error.mean()), "largest": float(error.max()), "deviation": float(expected.std())},
    }


def in_words(memory: dict[str, int]) -> str:
    anonymous, mapped = memory["anonymous"] / 1e6, memory["mapped"] / 1e6
    return f"{anonymous:.0f} + {mapped:.0f} = {anonymous + mapped:.0f} MB"


def serve(bundle: Path, device: str) -> None:
    """Scores the same conversations for every line of the input."""
    from rmruntime import RewardModel

    empty = memory({})
    rng = np.random.default_rng(0)
    records = [{"input_ids": rng.integers(100, 1000, TOKENS).tolist()} for _ in range(SEQUENCES)]
    with RewardModel.load(bundle, device=device) as model:
        model.score([{"input_ids": [5, 6, 7]}])
        packed = memory(empty)
        for _ in sys.stdin:
            begin = time.perf_counter()
            scores: list[Any] = list(model.score(records))
            seconds = time.perf_counter() - begin
            found = {"seconds": seconds, "tokens": SEQUENCES * TOKENS, "scores": [s.value for s in scores]}
            print(json.dumps({**found, "packed": packed, "after": memory(empty)}), flush=True)


def memory(empty: dict[str, int]) -> dict[str, int]:
    """Of this process beyond what it had when it was `empty`, in bytes: anonymous, and mapped from files."""
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    kib = {words[0]: int(words[1]) for words in lines if words[0] in ("RssAnon:", "RssFile:")}
    found = {"anonymous": kib["RssAnon:"] * 1024, "mapped": kib["RssFile:"] * 1024}
    return {name: value - empty.get(name, 0) for name, value in found.items()}


if __name__ == "__main__":
    main()
