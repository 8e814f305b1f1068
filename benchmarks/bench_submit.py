"""Requests of many threads against one `score()` of the same records: what sharing passes through the queue costs.

A Llama classifier of about 100M parameters with random weights. In `all at once` every thread submits all its records
and then reads its futures; in `closed loop` every thread waits for a score before it submits its next record. The three
take turns, and the medians of their seconds are compared. The latency of single requests is measured alone, and beside
another thread that scores all records as one batch.
"""

import argparse
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench_scoring import exported, write_checkpoint
from machine import banner

from rmruntime import RewardModel, Score, Statistics

SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "rope_theta": 500000.0,
    "pad_token_id": 0,
}
WORDS = "the heron nests by a weir and the river runs past an old mill in the morning light".split()
TARGETS = {"all at once": 1.05, "closed loop": 1.15}

Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder with 1 GB free")
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--records", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--singles", type=int, default=20, help="single requests whose latency is measured")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr] # as it is known, also into a file
    print(banner())
    checkpoint = write_checkpoint(arguments.work / "llama-100m", SHAPE)
    bundle = exported(checkpoint, arguments.work / f"llama-100m-{arguments.dtype}.bundle", arguments.dtype)
    records = conversations(arguments.records)
    with RewardModel.load(bundle, device=arguments.device) as model:
        expected = model.score(records)
        tokens = sum(score.tokens for score in expected if isinstance(score, Score))
        print(
            f"{model.backend} in {model.precision}: {len(records)} records of {tokens} tokens in all, "
            f"{arguments.threads} threads"
        )
        passes = compare(model, records, expected, arguments)
        latency(model, records, arguments.singles, passes)


def conversations(count: int) -> list[Record]:
    """Of 10 to 70 words; every fourth answers the prompt of the one before."""
    rng = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    prompts = [text(5, 30) for _ in range(count)]
    return [{"prompt": prompts[i - (i % 4 == 1)], "response": text(5, 40)} for i in range(count)]


def compare(
    model: RewardModel, records: Sequence[Record], expected: Sequence[Any], arguments: argparse.Namespace
) -> int:
    """Print the three beside one another. Returns the number of passes of one `score()`."""
    ways: dict[str, Callable[[], list[Any]]] = {
        "one score()": lambda: model.score(records),
        "all at once": lambda: in_threads(arguments.threads, records, lambda own: all_at_once(model, own)),
        "closed loop": lambda: in_threads(arguments.threads, records, lambda own: closed_loop(model, own)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}  # what other processes take counts for less here
    counted: dict[str, Statistics] = {}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            before, begin, used = model.statistics, time.perf_counter(), time.process_time()
            found = way()
            seconds[name].append(time.perf_counter() - begin)
            processor[name].append(time.process_time() - used)
            assert found == expected, f"{name}: other scores"
            after = model.statistics
            counted[name] = Statistics(passes=after.passes - before.passes, computed=after.computed - before.computed)
    base = statistics.median(seconds["one score()"])
    for name, own in seconds.items():
        median = statistics.median(own)
        ratio = statistics.median(a / b for a, b in zip(own, seconds["one score()"], strict=True))
        target = f", wanted at most {TARGETS[name]:.2f}" if name in TARGETS else ""
        print(
            f"{name}: {median:.3f} s ({', '.join(f'{one:.3f}' for one in own)}), {median / base:.3f} of one score(), "
            f"pair by pair {ratio:.3f}{target}; {statistics.median(processor[name]):.2f} s of the processor; "
            f"the last in {counted[name].passes} passes of "
            f"{counted[name].computed} tokens"
        )
    return counted["one score()"].passes


def in_threads(threads: int, records: Sequence[Record], work: Callable[[Sequence[Record]], list[Any]]) -> list[Any]:
    """Every thread has each `threads`-th record; the results are in the order of the records."""
    results: list[Any] = [None] * len(records)
    with ThreadPoolExecutor(threads) as pool:
        for first, found in enumerate(pool.map(work, [records[first::threads] for first in range(threads)])):
            results[first::threads] = found
    return results


def all_at_once(model: RewardModel, records: Sequence[Record]) -> list[Any]:
    return [future.result() for future in [model.submit(record) for record in records]]


def closed_loop(model: RewardModel, records: Sequence[Record]) -> list[Any]:
    return [model.submit(record).result() for record in records]


def latency(model: RewardModel, records: Sequence[Record], singles: int, passes: int) -> None:
    """Of single requests, alone and beside a batch of so many passes that begins anew until all have their scores."""
    alone = [one_latency(model, record) for record in records[:singles]]
    ended = threading.Event()
    spent: list[float] = []

    def batches() -> None:
        while not ended.is_set():
            begin = time.perf_counter()
            model.score(records)
            spent.append((time.perf_counter() - begin) / passes)

    batch = threading.Thread(target=batches)
    batch.start()
    beside = [one_latency(model, record) for record in records[:singles]]
    ended.set()
    batch.join()
    print(
        f"a single request: alone {1e3 * statistics.median(alone):.1f} ms, beside a batch median "
        f"{1e3 * statistics.median(beside):.1f} ms, most {1e3 * max(beside):.1f} ms; one pass of the "
        f"batch, and the request between two, then take {1e3 * statistics.median(spent):.1f} ms"
    )


def one_latency(model: RewardModel, record: Record) -> float:
    begin = time.perf_counter()
    model.submit(record).result()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
