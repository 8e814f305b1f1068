"""The CPU engines against each other on one bundle: what the rule of `--device auto` goes by.

A Llama classifier of random weights in the shape of SmolLM-135M, or the 426M one of bench_scoring.py. Every engine has
a process of its own, they take turns on the same conversations, and the best turn counts. Memory is anonymous, beyond
what the process had before it loaded the bundle, after passes that have packed the weights.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench_quantized import memory
from bench_scoring import SHAPE, write_checkpoint
from machine import banner, describe

SHAPES: Mapping[str, Mapping[str, float]] = {
    "135m": SHAPE
    | {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "426m": SHAPE,
}
RAGGED = (256, 200, 130, 64)  # tokens of each conversation
PROMPT, ANSWER, ANSWERS = 512, 64, 8
WORKLOADS = ("ragged", "best-of-8")


@dataclass
class Contestant:
    """A process with the bundle on one engine; it scores a workload when it is told its name."""

    engine: str
    process: subprocess.Popen[str]
    loaded: dict[str, Any] = field(default_factory=dict)
    turns: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in WORKLOADS})

    def answer(self, word: str = "") -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        if word:
            self.process.stdin.write(f"{word}\n")
            self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 4 GB free")
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    parser.add_argument("--quantize", choices=("int8", "int4", "fp8"))
    parser.add_argument("--engines", default="openvino,ort-cpu", help="as --device has them")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)  # a contestant's own process
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.engines, arguments.precision)
        return
    print(banner())
    rows = measured(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


def measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    bundle = exported(arguments)
    contestants = [started(bundle, engine, arguments) for engine in arguments.engines.split(",")]
    for contestant in contestants:  # one loads at a time, and packs its weights
        contestant.loaded = contestant.answer("load")
        contestant.answer(WORKLOADS[0])
    for _ in range(arguments.turns):
        for name in WORKLOADS:
            for contestant in contestants:
                contestant.turns[name].append(contestant.answer(name))
    rows = [row(contestant, bundle.name) for contestant in contestants]
    for contestant in contestants:
        contestant.process.communicate("")
    return rows


def exported(arguments: argparse.Namespace) -> Path:
    from rmexport import ExportOptions, export

    scheme = "" if arguments.quantize is None else f"-{arguments.quantize}"
    bundle: Path = arguments.work / f"llama-{arguments.shape}-{arguments.dtype}{scheme}.bundle"
    if not bundle.exists():
        checkpoint = write_checkpoint(arguments.work / f"llama-{arguments.shape}", SHAPES[arguments.shape])
        export(str(checkpoint), bundle, ExportOptions(dtype=arguments.dtype, quantize=arguments.quantize))
    return bundle


def started(bundle: Path, engine: str, arguments: argparse.Namespace) -> Contestant:
    command = [sys.executable, __file__, "--work", arguments.work, "--serve", bundle, "--engines", engine]
    command += ["--precision", arguments.precision]
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return Contestant(engine, process)


def row(contestant: Contestant, bundle: str) -> dict[str, Any]:
    """One line of the table, printed."""
    loaded = contestant.loaded
    best = {name: min(turn["seconds"] for turn in turns) for name, turns in contestant.turns.items()}
    anonymous = max(turn["memory"]["anonymous"] for turns in contestant.turns.values() for turn in turns)
    seconds = ", ".join(f"{name} {value:.3f} s" for name, value in best.items())
    print(
        f"{bundle} on {loaded['backend']} in {loaded['precision']}: load {loaded['seconds']:.2f} s, {seconds}, "
        f"{anonymous / 1e6:.0f} MB anonymous",
        flush=True,
    )
    return {"bundle": bundle, **loaded, "turns": contestant.turns}


def serve(bundle: Path, engine: str, precision: str) -> None:
    """Loads the bundle, and scores the workload that each further line of the input names."""
    from rmruntime import RewardModel

    empty, records = memory({}), {name: conversations(name) for name in WORKLOADS}
    sys.stdin.readline()
    begin = time.perf_counter()
    with RewardModel.load(bundle, device=engine, precision=precision) as model:
        answer(seconds=time.perf_counter() - begin, backend=model.backend, precision=model.precision)
        for line in sys.stdin:
            begin = time.perf_counter()
            scores: list[Any] = list(model.score(records[line.strip()]))
            seconds = time.perf_counter() - begin
            answer(seconds=seconds, scores=[score.value for score in scores], memory=memory(empty))


def answer(**found: Any) -> None:
    print(json.dumps(found), flush=True)


def conversations(workload: str) -> list[dict[str, Any]]:
    """Records of token ids, the same in every process."""
    rng = np.random.default_rng(0)
    if workload == "ragged":
        return [{"input_ids": rng.integers(100, 1000, length).tolist()} for length in RAGGED]
    prompt = rng.integers(100, 1000, PROMPT).tolist()
    return [{"input_ids": [*prompt, *rng.integers(100, 1000, ANSWER).tolist()]} for _ in range(ANSWERS)]


if __name__ == "__main__":
    main()
