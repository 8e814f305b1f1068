"""Preference pairs from prompts and answers, and the files of held-out examples."""

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from answers import Answer, draw_answer
from prompts import SUBJECTS, Prompt, build_prompt, draw_prompt, utility

MARGIN = 0.05  # of utility; closer answers are near ties, few of which are kept
NEAR_TIES = 0.15


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, the better one first."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer


def draw_pair(prompt: Prompt, rng: random.Random) -> Pair:
    """Draw answers until they differ enough."""
    refusal_chance = 0.45 if prompt.subject.harmful else 0.1
    while True:
        first, second = (draw_answer(prompt.subject.topic, refusal_chance, rng) for _ in range(2))
        gain = utility(prompt, first) - utility(prompt, second)
        if abs(gain) >= MARGIN or (gain != 0 and rng.random() < NEAR_TIES):
            return Pair(prompt, first, second) if gain > 0 else Pair(prompt, second, first)


def draw_pairs(count: int, rng: random.Random, exclude: Iterable[str] = (), unique: bool = False) -> list[Pair]:
    """Pairs whose prompts are not in ``exclude`` and, if ``unique``, all differ."""
    seen, pairs = set(exclude), []
    while len(pairs) < count:
        prompt = draw_prompt(rng)
        if prompt.key not in seen:
            pairs.append(draw_pair(prompt, rng))
            if unique:
                seen.add(prompt.key)
    return pairs


def draw_gate_couples(count: int, rng: random.Random) -> list[tuple[tuple[str, Pair], tuple[str, Pair]]]:
    """The same two answers under two requests for the same question that reverse the preference."""
    requests = ("brief", "detailed", "formal", "friendly", "list", "sure")
    harmless = [subject for subject in SUBJECTS if not subject.harmful]
    couples = []
    while len(couples) < count:
        subject, names = rng.choice(harmless), rng.sample(requests, 2)
        question = rng.choice(subject.topic.questions)
        one, two = (build_prompt(subject, question, [name], [], rng) for name in names)
        first, second = (draw_answer(subject.topic, 0.0, rng) for _ in range(2))
        gains = [utility(prompt, first) - utility(prompt, second) for prompt in (one, two)]
        if gains[0] > 2 * MARGIN and gains[1] < -2 * MARGIN:
            couples.append(((names[0], Pair(one, first, second)), (names[1], Pair(two, second, first))))
    return couples


def pair_record(identity: str, pair: Pair) -> dict[str, object]:
    """A pair as a line of JSON; a prompt of a single turn is written as plain text."""
    messages = pair.prompt.messages
    prompt = messages[0]["content"] if len(messages) == 1 else messages
    return {"id": identity, "prompt": prompt, "chosen": pair.chosen.text, "rejected": pair.rejected.text}


def write_records(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write JSON lines."""
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
