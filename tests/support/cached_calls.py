"""Calls of a model with a prefix cache: sequences that go on, fork and come again, and what is computed for them."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from backbone_shapes import BACKBONES
from family_checkpoints import family_checkpoint
from rmruntime import RewardModel, ScoreOptions
from rmruntime.sequences import Ints, TokenSequence

NEW = (1, 2, 16, 17)  # tokens of a pass: fewer than a matrix tile, a tile, and one more
ROPE_LENGTH = 64  # of the model whose frequencies depend on the length


def checkpoint_in(folder: Path, name: str) -> Path:
    model_type, fields = BACKBONES[name]
    length = {"max_position_embeddings": ROPE_LENGTH} if name == "llama_dynamic" else {}
    return family_checkpoint(folder, model_type, fields | length).folder


def sequence(ids: Ints, rng: random.Random) -> TokenSequence:
    """With one to three scored positions anywhere; the last token is not always among them."""
    reads = sorted(rng.sample(range(len(ids)), k=min(len(ids), rng.randint(1, 3))))
    return TokenSequence(ids=ids, reads={"score": np.array(reads)})


def calls(seed: int, longest: int, count: int = 24) -> list[list[TokenSequence]]:
    """Calls of one to five sequences: what was scored goes on, forks, comes again, or is something else."""
    rng = random.Random(seed)
    known: list[Ints] = []
    made = []
    for _ in range(count):
        call = []
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            base = rng.choice(known) if known and rng.random() < 0.85 else np.empty(0, np.int64)
            base = base[: rng.randint(0, len(base))] if rng.random() < 0.3 else base
            more = np.array(rng.choices(range(3, 90), k=0 if len(base) and rng.random() < 0.15 else rng.choice(NEW)))
            ids = np.concatenate([base, more]).astype(np.int64)[:longest]
            if len(ids):
                call.append(sequence(ids, rng))
                known = [*known[-12:], ids]
        if call:
            made.append(call)
    return made


def outputs(model: RewardModel, sequences: Sequence[TokenSequence], budget: int | None = None) -> list[bytes]:
    found = model.stream_outputs(sequences, ScoreOptions(max_batch_tokens=budget))
    return [next(iter(outcome.values())).tobytes() for outcome in found]  # type: ignore[union-attr]
