"""Seeded conversations with ragged lengths and shared prefixes, as records."""

import random
from typing import Any

WORDS = "the answer is number sum good bad helpful honest step ing user 1 2 + - , . é 東 🙂 \n".split(" ")


def text(rng: random.Random, low: int, high: int) -> str:
    """Words from a vocabulary that the tiny tokenizer splits in many ways."""
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high))).strip() or "x"


def ragged_records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Conversations of very different lengths; every third shares the prompt of the one before, some are multi-turn."""
    rng = random.Random(seed)
    records: list[dict[str, Any]] = []
    prompt: Any = ""
    for i in range(count):
        if i % 3 != 1:
            prompt = text(rng, 1, 40)
            if i % 5 == 4:
                turns = ("system", "user", "assistant", "user")
                prompt = [{"role": role, "content": text(rng, 1, 12)} for role in turns]
        records.append({"prompt": prompt, "response": text(rng, 1, 60)})
    return records


def step_records(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Solutions of one to five steps."""
    rng = random.Random(seed)
    return [
        {"prompt": text(rng, 1, 20), "steps": [text(rng, 1, 15) for _ in range(rng.randint(1, 5))]}
        for _ in range(count)
    ]


def messages_of(record: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation of a prompt/response record."""
    prompt = record["prompt"]
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return [*turns, {"role": "assistant", "content": record["response"]}]
