"""A bundle on each of its CPU engines against transformers and vLLM: same models, token ids and threads, one run.

Two classifiers: SmolLM2-135M (with --real its published weights and a fitted head, else random ones) and the 426M
Llama of bench_scoring.py, each in fp32 and bf16. Every contestant has a process of its own and loads once for all
workloads; in every repeat each takes its turn. One pass of each workload comes before: it warms up, and its scores are
compared with the bundle's. Peers run in the environments that `scripts/peers` makes. ONNX Runtime computes in fp32 on
CPUs, so it has no bf16.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench_engines import SHAPES
from bench_scoring import exported, write_checkpoint
from machine import banner, describe

from rmexport.bench.contestants import Contestant, Entrant, entrants, start
from rmexport.bench.options import BenchOptions
from rmexport.bench.peers import file_of, peers
from rmexport.bench.profiles import BestOf, Pairs, Profile, Ragged, Tree
from rmexport.bench.scenarios import SETTLE_S
from rmexport.bench.workload import Workload, profile_workload
from rmruntime.bundle import Bundle

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from real_models import CLASSIFIER, real_checkpoint

MODELS: Mapping[str, Mapping[str, float]] = {
    "smollm2-135m": SHAPES["135m"] | {"max_position_embeddings": 8192, "rope_theta": 100000.0},
    "llama-426m": SHAPES["426m"],
}
ENGINES = {"fp32": ("ort-cpu", "openvino"), "bf16": ("openvino",)}
PEERS = ("transformers", "vllm")
CASES: Mapping[str, Profile] = {
    "ragged": Ragged(tuple(16 + 684 * (7 * i % 16) // 15 for i in range(16))),  # 16 to 700 tokens, in no order
    "best-of-8": BestOf(prompt=640, answers=8, answer=64),
    "pairs": Pairs(pairs=8, prompt=(40, 400), answer=(20, 300)),
    "tree": Tree(system=200, prompts=3, prompt=150, answers=5, answer=60),
}
LOAD = "load"
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Round:
    """One model in one dtype; `weights` says what is in the checkpoint."""

    model: str
    weights: str
    dtype: str
    checkpoint: Path
    bundle: Path


class Results:
    """The rows on disk after every case, and each row printed as it is known."""

    def __init__(self, path: Path | None, folders: Sequence[Path] = ()) -> None:
        """`folders` are left out of the command that is written down: nobody else has them."""
        self._path, self._folders, self.rows = path, folders, list[Row]()

    def add(self, rows: list[Row]) -> None:
        self.rows += rows
        for row in rows:
            print(line(row), flush=True)
        self.save(complete=False)

    def save(self, *, complete: bool) -> None:
        if self._path is not None:
            machine = describe()
            for folder in self._folders:
                machine["command"] = machine["command"].replace(str(folder), "FOLDER")
            body = {"machine": machine, "complete": complete, "rows": self.rows}
            self._path.write_text(json.dumps(body, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 6 GB free")
    parser.add_argument("--real", action="store_true", help="SmolLM2-135M's own weights: ./scripts/install --real")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--loads", type=int, default=2, help="times that each contestant is loaded (default: 2)")
    parser.add_argument("--minutes", type=float, default=60.0, help="after these, one repeat of what is left")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every contestant")
    parser.add_argument("--model", action="append", choices=MODELS, help="repeatable; default: both")
    parser.add_argument("--dtype", action="append", choices=ENGINES, help="repeatable; default: both")
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; default: all")
    parser.add_argument("--peer-folder", type=Path, default=Path(".peers"), help="as scripts/peers made it")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    print(banner())
    results = Results(arguments.json, [arguments.work, arguments.peer_folder])
    deadline = time.monotonic() + 60 * arguments.minutes
    for one in rounds(arguments):
        measure(one, arguments, deadline, results)
    results.save(complete=True)


def rounds(arguments: argparse.Namespace) -> Iterator[Round]:
    """What is measured, made first: checkpoint and bundle."""
    for model in arguments.model or MODELS:
        trained = arguments.real and model == "smollm2-135m"
        checkpoint = real_checkpoint(CLASSIFIER) if trained else write_checkpoint(arguments.work / model, MODELS[model])
        kind = "trained" if trained else "random"
        for dtype in arguments.dtype or ENGINES:
            bundle = exported(checkpoint, arguments.work / f"{model}-{kind}.{dtype}.bundle", dtype)
            yield Round(model=model, weights=kind, dtype=dtype, checkpoint=checkpoint, bundle=bundle)


def measure(one: Round, arguments: argparse.Namespace, deadline: float, results: Results) -> None:
    """All contestants and all cases of a round."""
    bundle = Bundle.open(one.bundle)
    options = BenchOptions(
        peers=tuple(f"{peer}:{one.dtype}" for peer in PEERS), peer_folder=arguments.peer_folder,
        checkpoint=str(one.checkpoint), threads=arguments.threads, peer_cache=arguments.work,
    )  # fmt: skip
    cases = {name: profile_workload(bundle, name, CASES[name], seed=0) for name in arguments.case or CASES}
    everything = Workload(
        name="all", kind="profile", seed=0, requests=tuple(r for case in cases.values() for r in case.requests)
    )
    field = [(own_entrant(one, engine), replace(options, device=engine)) for engine in ENGINES[one.dtype]]
    field += [(entrant, options) for entrant in entrants(bundle, options)[1:]]
    with loaded(field, bundle, everything, arguments.loads) as (contestants, seconds):
        results.add([load_row(one, c, seconds[c.entrant.name]) for c in contestants])
        for name, workload in cases.items():
            results.add(measure_case(one, name, workload, contestants, arguments.repeats, deadline))


def own_entrant(one: Round, engine: str) -> Entrant:
    """The bundle on one of its engines."""
    return Entrant(
        name=f"rmexport {engine}", module=file_of(peers()["bundle"]), folder=str(one.bundle), dtype="auto",
        python=sys.executable,
    )  # fmt: skip


@contextmanager
def loaded(
    field: list[tuple[Entrant, BenchOptions]], bundle: Bundle, everything: Workload, loads: int
) -> Iterator[tuple[list[Contestant], dict[str, list[float]]]]:
    """Every contestant loaded `loads` times, the last of them kept, and the seconds of each load."""
    contestants, seconds = [], {}
    try:
        for entrant, options in field:
            found = []
            for number in range(loads):
                contestant = Contestant(entrant)
                contestants.append(contestant)
                contestant.attempt(lambda c, options=options: start(c, bundle.manifest, options, everything))
                if contestant.record["load_s"] is not None:
                    found.append(contestant.record["load_s"])
                if number < loads - 1:
                    contestants.pop().close()
            seconds[entrant.name] = found
        yield contestants, seconds
    finally:
        for contestant in contestants:
            contestant.close()


def load_row(one: Round, contestant: Contestant, seconds: list[float]) -> Row:
    record = contestant.record
    facts = {name: record[name] for name in ("settings", "versions", "precision", "first_score_s")}
    return row(one, LOAD, contestant, seconds) | facts


def measure_case(
    one: Round, name: str, workload: Workload, contestants: list[Contestant], repeats: int, deadline: float
) -> list[Row]:
    """One pass to warm up and compare scores, then the repeats in turns."""
    requests = [{"sequences": asked.sequences, "records": asked.records} for asked in workload.requests]
    own, times = contestants[0], {c.entrant.name: list[float]() for c in contestants}
    facts: dict[str, Row] = {c.entrant.name: {} for c in contestants}

    def warm_up(contestant: Contestant) -> None:
        contestant.ask("workload", requests=requests)
        found = contestant.ask("offline")
        contestant.scores, contestant.record["parity"] = found["scores"], None
        facts[contestant.entrant.name] |= {"warm_up_s": found["seconds"], "computed_tokens": found["computed"]}
        if contestant is not own:
            contestant.judge(own.scores, str(own.record["precision"]), workload, found["scores"])

    def repeat(contestant: Contestant) -> None:
        times[contestant.entrant.name].append(contestant.ask("offline")["seconds"])

    for number, piece in enumerate([warm_up, *[repeat] * repeats]):
        if number > 1 and time.monotonic() > deadline:
            break
        for contestant in contestants:
            if contestant.running:
                time.sleep(SETTLE_S)
                contestant.attempt(piece)
    return [
        row(one, name, c, times[c.entrant.name]) | facts[c.entrant.name] | {"parity": c.record["parity"]}
        for c in contestants
    ]


def row(one: Round, case: str, contestant: Contestant, seconds: list[float]) -> Row:
    """One contestant on one case: every repeat's seconds, and how it fared."""
    return {
        "model": one.model, "weights": one.weights, "dtype": one.dtype, "case": case,
        "contestant": contestant.entrant.name.partition(":")[0], "status": contestant.record["status"],
        "message": contestant.record["message"], "seconds": seconds,
        "min": min(seconds, default=None), "median": median(seconds) if seconds else None,
        "peak_bytes": contestant.record["peak_bytes"],
    }  # fmt: skip


def line(row: Row) -> str:
    """The row as text."""
    start = f"{row['model']} ({row['weights']}) {row['dtype']} {row['case']}: {row['contestant']}"
    if not row["seconds"]:
        return f"{start} {row['status']}: {row['message']}"
    parity = row.get("parity")
    scores = "" if parity is None else f", {'same' if parity['same'] else 'WRONG'} scores ({parity['max_abs']:.1e})"
    return f"{start} {row['min']:.3f} s, median {row['median']:.3f} of {len(row['seconds'])}{scores}"


if __name__ == "__main__":
    main()
