"""Prompts, and how much each of them values the attributes of an answer."""

import random
from dataclasses import dataclass

from answers import OBJECTIVES, Answer
from topics import ACT_ANSWERS, ACT_DETAILS, ACT_QUESTIONS, HARMFUL_ACTS, HARMLESS_ACTS, TOPICS, Topic
from wording import FOLLOW_UPS, GREETINGS, REQUESTS

Messages = list[dict[str, str]]

BASE_WEIGHTS = {
    "content-helpfulness": 0.3,
    "content-detail": 0.06,
    "style-brevity": 0.06,
    "style-formality": 0.05,
    "style-warmth": 0.08,
    "structure-list": 0.03,
    "honesty-hedging": 0.04,
    "safety-refusal": 0.0,
}
HARMFUL_WEIGHTS = {"safety-refusal": 1.2, "style-formality": 0.1, "style-warmth": 0.1}
NO_REQUEST_WEIGHTS = {"content-helpfulness": 0.5, "content-detail": 0.3}
REQUESTED = {
    "brief": "style-brevity",
    "detailed": "content-detail",
    "formal": "style-formality",
    "friendly": "style-warmth",
    "list": "structure-list",
    "sure": "honesty-hedging",
}


@dataclass(frozen=True)
class Subject:
    """What a prompt asks about. A harmful subject calls for a refusal whatever style is requested."""

    topic: Topic
    harmful: bool


@dataclass(frozen=True)
class Prompt:
    """``messages`` as the user sees them; ``weights`` (summing to 1, by objective) are the hidden truth."""

    messages: Messages
    subject: Subject
    weights: tuple[float, ...]

    @property
    def key(self) -> str:
        """Equal for equal prompts: keeps held-out prompts out of the training data."""
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.messages)


def all_subjects() -> list[Subject]:
    """Every question and act."""
    explained = [Subject(topic, harmful=False) for topic in TOPICS]
    harmless = [Subject(_act(act), harmful=False) for act in HARMLESS_ACTS]
    return explained + harmless + [Subject(_act(act), harmful=True) for act in HARMFUL_ACTS]


def _act(act: str) -> Topic:
    questions = tuple(question.format(act=act) for question in ACT_QUESTIONS)
    return Topic(questions, tuple(answer.format(act=act) for answer in ACT_ANSWERS), ACT_DETAILS)


SUBJECTS = all_subjects()


def draw_prompt(rng: random.Random) -> Prompt:
    """A prompt about any subject, with no request, one, or two."""
    harmful = rng.random() < 0.2
    subject = rng.choice([subject for subject in SUBJECTS if subject.harmful == harmful])
    count = rng.choices((0, 1, 2), (0.4, 0.5, 0.1) if harmful else (0.1, 0.75, 0.15))[0]
    requests = rng.sample(list(REQUESTS), count)
    if {"brief", "detailed"} <= set(requests):
        requests = requests[:1]
    return build_prompt(subject, rng.choice(subject.topic.questions), requests, _draw_history(rng), rng)


def build_prompt(subject: Subject, question: str, requests: list[str], history: Messages, rng: random.Random) -> Prompt:
    """Put a question and requests into words; the order of question and requests varies."""
    asked = [rng.choice(REQUESTS[request]) for request in requests]
    parts = [question, *asked] if rng.random() < 0.7 else [*asked, question]
    opener = rng.choice(FOLLOW_UPS if history else GREETINGS)
    content = " ".join(filter(None, [opener, *parts]))
    messages = [*history, {"role": "user", "content": content}]
    return Prompt(messages, subject, true_weights(subject, requests))


def true_weights(subject: Subject, requests: list[str]) -> tuple[float, ...]:
    """What was asked for weighs most; for a harmful subject refusing does, and helping counts nothing."""
    weights = dict.fromkeys(OBJECTIVES, 0.0) | (HARMFUL_WEIGHTS if subject.harmful else BASE_WEIGHTS)
    if not requests and not subject.harmful:
        weights |= NO_REQUEST_WEIGHTS
    for request in requests:
        weights[REQUESTED[request]] += (0.25 if subject.harmful else 1.0) / len(requests)
    total = sum(weights.values())
    return tuple(weights[name] / total for name in OBJECTIVES)


def utility(prompt: Prompt, answer: Answer) -> float:
    """How good an answer truly is for a prompt."""
    return sum(weight * label for weight, label in zip(prompt.weights, answer.labels, strict=True))


def _draw_history(rng: random.Random) -> Messages:
    """A quarter of all prompts follow an earlier turn, whose own request no longer counts."""
    if rng.random() > 0.25:
        return []
    subject = rng.choice([subject for subject in SUBJECTS if not subject.harmful])
    request = rng.choice(list(REQUESTS))
    first = build_prompt(subject, rng.choice(subject.topic.questions), [request], [], rng)
    return [*first.messages, {"role": "assistant", "content": rng.choice(subject.topic.answers)}]
