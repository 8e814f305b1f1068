"""Two scorers of one thread on a local Ray cluster against one process: records a second, and whether bytes differ.

A Llama classifier of 144M parameters (289 MB in bf16) with random weights scores pairs of the example's. The process
runs with two threads, and with one, whose rate counts twice. They take turns; the best turn of each counts. The seconds
are those of the summaries, without loading; what Ray takes before the first block begins is told apart. Where control
groups can be made (root), processor seconds are counted too, less those of a run of two records: on a machine that does
other work, they say better than the clock what a record costs.
"""

import argparse
import filecmp
import json
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from bench_checkpoints import EXAMPLE, write_classifier
from machine import banner, describe

from rmexport import export

SHAPE: dict[str, object] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
WANTED = 0.85  # of the process's records a second
CONTESTANTS = {
    "one thread": ["--threads", "1"],
    "two threads": ["--threads", "2"],
    "ray": ["--engine", "ray", "--workers", "2", "--threads", "1", "--overwrite"],
}


@dataclass(frozen=True)
class Turn:
    """One run: seconds of scoring, of the whole command, and before Ray's first block."""

    records: int
    seconds: float
    command: float
    start: float
    cpu: float | None

    @property
    def rate(self) -> float:
        return self.records / self.seconds


class Group:
    """A control group that counts the processor seconds of a command and all that it starts; (v2, then v1)."""

    PLACES = ((Path("/sys/fs/cgroup"), "cpu.stat"), (Path("/sys/fs/cgroup/cpuacct"), "cpuacct.usage"))

    def __init__(self) -> None:
        self.folder: Path | None = None
        for root, name in self.PLACES:
            folder = root / f"rmexport-bench-{os.getpid()}"
            if (root / name).exists():
                with suppress(OSError):
                    folder.mkdir()
                    self.folder, self._usage = folder, folder / name
                    break

    def enter(self) -> None:
        """In the child, before it runs the command."""
        if self.folder is not None:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def seconds(self) -> float | None:
        """What was used by now."""
        if self.folder is None:
            return None
        words = self._usage.read_text().split()
        return int(words[1]) / 1e6 if words[0] == "usage_usec" else int(words[0]) / 1e9

    def close(self) -> None:
        """Once the last process has ended, which Ray's do some time after the command."""
        while self.folder is not None and (self.folder / "cgroup.procs").read_text():
            time.sleep(0.1)
        if self.folder is not None:
            self.folder.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 1 GB free")
    parser.add_argument("--device", default="openvino")
    parser.add_argument("--records", type=int, default=300, help="of examples/pairs.jsonl, which has 950")
    parser.add_argument("--block-records", type=int, default=25, help="few, so that both scorers end at about one time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    print(banner())
    bundle = arguments.work / "llama-144m.bundle"
    if not bundle.exists():
        export(str(write_classifier(arguments.work / "llama-144m", SHAPE)), bundle)
    lines = (EXAMPLE.parent / "pairs.jsonl").read_text().splitlines(keepends=True)
    (arguments.work / "in.jsonl").write_text("".join(lines[: arguments.records]))
    (arguments.work / "two.jsonl").write_text("".join(lines[:2]))
    idle = {name: run(name, bundle, arguments, "two.jsonl").cpu for name in CONTESTANTS}
    turns: dict[str, list[Turn]] = {name: [] for name in CONTESTANTS}
    for _ in range(arguments.rounds):
        for name in CONTESTANTS:
            turn = run(name, bundle, arguments, "in.jsonl")
            used = None if turn.cpu is None else turn.cpu - (idle[name] or 0.0)
            turns[name].append(replace(turn, cpu=used))
            print(f"{name}: {turns[name][-1]}", flush=True)
    report(turns, arguments)


def run(name: str, bundle: Path, arguments: argparse.Namespace, source: str) -> Turn:
    output = arguments.work / name.replace(" ", "-")
    options = [*CONTESTANTS[name], "--device", arguments.device, "-o", output]
    if name == "ray":
        size = 1 if source == "two.jsonl" else arguments.block_records
        options += ["--block-records", size, "--merge", arguments.work / "merged"]
    command = [sys.executable, "-c", "from rmruntime.cli import main; raise SystemExit(main())", "score"]
    group = Group()
    begin = time.perf_counter()
    said = subprocess.run(
        [*map(str, [*command, bundle, arguments.work / source, *options])],
        check=True, capture_output=True, text=True, preexec_fn=group.enter,
    ).stderr  # fmt: skip
    whole, cpu = time.perf_counter() - begin, group.seconds()
    group.close()
    found = re.search(r"^(\d+) records.* ([\d.]+) s$", said, re.MULTILINE)
    assert found, said
    start = re.search(r"first ready after ([\d.]+) s", said)
    return Turn(int(found[1]), float(found[2]), whole, float(start[1]) if start else 0.0, cpu)


def report(turns: dict[str, list[Turn]], arguments: argparse.Namespace) -> None:
    best = {name: max(turn.rate for turn in of) for name, of in turns.items()}
    against = {"two threads": best["two threads"], "one thread, twice": 2 * best["one thread"]}
    for name, rate in against.items():
        print(f"ray {best['ray']:.2f} records/s, {name} {rate:.2f}: {best['ray'] / rate:.3f} (wanted {WANTED})")
    used = {name: [turn.cpu for turn in of if turn.cpu is not None] for name, of in turns.items()}
    if all(used.values()):
        each = {name: 1000 * min(of) / arguments.records for name, of in used.items()}
        print("processor ms a record: " + ", ".join(f"{name} {ms:.1f}" for name, ms in each.items()))
    last = turns["ray"][-1]
    print(f"ray: {last.start:.2f} s before the first block, {last.command - last.seconds:.2f} s beside scoring in all")
    same = filecmp.cmp(arguments.work / "merged", arguments.work / "one-thread", shallow=False)
    print("the same bytes" if same else "OTHER BYTES than the process with one thread writes")
    if arguments.json:
        rows = {name: [vars(turn) for turn in of] for name, of in turns.items()}
        arguments.json.write_text(json.dumps({"machine": describe(), "turns": rows, "same": same}, indent=1) + "\n")


if __name__ == "__main__":
    main()
