"""Scoring through ONNX Runtime on the CPU against transformers in fp32: same model, same token ids, one run.

A Llama classifier of 426M parameters with random weights. Each contestant runs in a process of its own; the two take
turns, and every figure is the best of --repeats. Scores are compared in the same run: a fast wrong score is a failure.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from machine import banner, describe

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 8,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "rope_theta": 500000.0,
    "pad_token_id": 0,
}
TOLERANCE = 1e-4  # the parity gate's fp32 rule
Ids = list[int]


@dataclass(frozen=True)
class Case:
    """Token sequences, how transformers batches them, and the ratio the project wants."""

    name: str
    sequences: list[Ids]
    batch: int
    target: float | None


def cases() -> list[Case]:
    rng = np.random.default_rng(0)

    def ids(count: int) -> Ids:
        return [int(i) for i in rng.integers(1, SHAPE["vocab_size"], count)]

    prompt = ids(512)
    pairs = []
    for _ in range(12):
        question = ids(int(rng.integers(40, 400)))
        pairs += [question + ids(int(rng.integers(20, 300))) for _ in range(2)]
    system = ids(200)
    tree = []
    for _ in range(3):
        question = system + ids(60)
        tree += [question + ids(64) for _ in range(5)]
    return [
        Case("ragged: 256/200/130/64 tokens", [ids(n) for n in (256, 200, 130, 64)], 4, 1.7),
        Case("best-of-8: 512-token prompt, 64-token answers", [prompt + ids(64) for _ in range(8)], 8, 3.5),
        Case("12 pairs: prompts 40-400, answers 20-300", pairs, 8, None),
        Case("tree: 200-token system prompt, 3 prompts, 5 answers", tree, 8, None),
    ]


def write_checkpoint(folder: Path) -> Path:
    """The classifier, seeded, with the example's tokenizer."""
    import shutil

    import torch
    from bench_checkpoints import EXAMPLE
    from transformers import LlamaConfig, LlamaForSequenceClassification

    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        LlamaForSequenceClassification(LlamaConfig(num_labels=1, **SHAPE)).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(EXAMPLE / name, folder / name)
    return folder


def transformers_scorer(folder: Path) -> Callable[[Case], list[float]]:
    """What a user writes: sorted by length, right-padded batches, sdpa, fp32."""
    import torch
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()

    def score(case: Case) -> list[float]:
        order = sorted(range(len(case.sequences)), key=lambda i: len(case.sequences[i]))
        found = [0.0] * len(order)
        for start in range(0, len(order), case.batch):
            batch = order[start : start + case.batch]
            longest = max(len(case.sequences[i]) for i in batch)
            padded = torch.tensor([case.sequences[i] + [0] * (longest - len(case.sequences[i])) for i in batch])
            with torch.inference_mode():
                logits = model(padded, attention_mask=(padded != 0).long(), use_cache=False).logits
            for i, value in zip(batch, logits[:, 0].tolist(), strict=True):
                found[i] = value
        return found

    return score


def rmruntime_scorer(bundle: Path) -> Callable[[Case], list[float]]:
    from rmruntime import RewardModel, Score

    model = RewardModel.load(bundle, device="ort-cpu")

    def score(case: Case) -> list[float]:
        scores = model.score([{"input_ids": ids} for ids in case.sequences])
        return [s.value for s in scores if isinstance(s, Score) and s.value is not None]

    return score


SCORERS = {"transformers": transformers_scorer, "rmruntime": rmruntime_scorer}


def serve(name: str, folder: Path, connection: Connection) -> None:
    """A contestant: seconds and scores of each case it is sent."""
    score = SCORERS[name](folder)
    while (case := connection.recv()) is not None:
        begin = time.perf_counter()
        found = score(case)
        connection.send((time.perf_counter() - begin, found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 4 GB free")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    print(banner())
    checkpoint = write_checkpoint(arguments.work / "llama-426m")
    bundle = arguments.work / "llama-426m.bundle"
    if not bundle.exists():
        from rmexport import ExportOptions, export

        export(str(checkpoint), bundle, ExportOptions(weights="link"))
    rows = run({"transformers": checkpoint, "rmruntime": bundle}, arguments.repeats)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n")


def run(folders: dict[str, Path], repeats: int) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("spawn")
    connections = {}
    for name, folder in folders.items():
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(name, folder, theirs), daemon=True).start()
        connections[name] = ours
    rows = [measured(case, connections, repeats) for case in cases()]
    for connection in connections.values():
        connection.send(None)
    return rows


def measured(case: Case, connections: dict[str, Connection], repeats: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in connections}
    scores: dict[str, list[float]] = {}
    for _ in range(repeats + 1):  # the first warms up
        for name, connection in connections.items():
            connection.send(case)
            took, scores[name] = connection.recv()
            seconds[name].append(took)
    best = {name: min(values[1:]) for name, values in seconds.items()}
    error = float(np.abs(np.subtract(scores["transformers"], scores["rmruntime"])).max())
    ratio = best["transformers"] / best["rmruntime"]
    wanted = f", wanted {case.target}" if case.target else ""
    verdict = "same scores" if error <= TOLERANCE else "WRONG SCORES"
    print(
        f"{case.name}: transformers {best['transformers']:.2f} s, rmruntime {best['rmruntime']:.2f} s, "
        f"{ratio:.2f}x{wanted}; {verdict} (largest difference {error:.1e})",
        flush=True,
    )
    return {"case": case.name, "seconds": seconds, "ratio": ratio, "target": case.target, "difference": error}


if __name__ == "__main__":
    main()
