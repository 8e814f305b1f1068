"""Seeded token ids that every contestant scores: the requests of each workload, as lists of sequences."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu.plan import Plan

FIRST_ID, LAST_ID = 100, 1800  # ordinary tokens of the example's tokenizer, which every checkpoint here has
Ids = list[int]


@dataclass(frozen=True)
class Workload:
    """`requests` hold one sequence or several over one prompt; `measure` is the worker's command that times them."""

    name: str
    measure: str
    requests: tuple[tuple[Ids, ...], ...]

    @property
    def tokens(self) -> int:
        """Of all sequences, without sharing."""
        return sum(len(ids) for request in self.requests for ids in request)

    def as_command(self) -> list[dict[str, Any]]:
        """As the worker takes requests."""
        return [{"sequences": r, "records": [{"input_ids": ids} for ids in r]} for r in self.requests]


def workloads(plan: Plan, sections: tuple[str, ...]) -> list[Workload]:
    """Those of the sections `latency` and `throughput`."""
    rng = np.random.default_rng(0)
    single = Workload("single", "single", tuple((_ids(rng, plan.single),) for _ in range(8)))
    low, high = plan.ragged
    ragged = tuple((_ids(rng, int(n)),) for n in rng.integers(low, high + 1, plan.ragged_count))
    made = {
        "latency": [single],
        "throughput": [Workload("ragged", "offline", ragged), Workload("best-of", "offline", _best_of(rng, plan))],
    }
    return [workload for section in sections for workload in made.get(section, [])]


def _best_of(rng: np.random.Generator, plan: Plan) -> tuple[tuple[Ids, ...], ...]:
    prompts, answers, prompt, answer = plan.best_of
    found = []
    for _ in range(prompts):
        common = _ids(rng, prompt)
        found.append(tuple(common + _ids(rng, answer) for _ in range(answers)))
    return tuple(found)


def parity_records(plan: Plan, gate: tuple[int, ...], seed: int = 1) -> list[dict[str, Any]]:
    """Conversations that end their prompt with `gate`: a quarter in groups of four over one prompt."""
    rng = np.random.default_rng(seed)
    low, high = plan.ragged
    prompts = rng.integers(low, max(low + 1, high // 2), plan.conversations)
    records: list[Ids] = []
    for n in prompts:
        if len(records) >= plan.conversations:
            break
        prompt, answers = [*_ids(rng, int(n)), *gate], 4 if len(records) % 16 == 0 else 1
        records += [prompt + _ids(rng, int(rng.integers(2, max(3, low)))) for _ in range(answers)]
    return [{"input_ids": ids} for ids in records[: plan.conversations]]


def _ids(rng: np.random.Generator, count: int) -> Ids:
    return [int(i) for i in rng.integers(FIRST_ID, LAST_ID, count)]
