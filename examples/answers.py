"""Answers with drawn attribute levels. Every label can be read from the answer's own words."""

import random
from dataclasses import dataclass

from topics import GENERAL_DETAILS, Topic
from wording import (
    BOASTS,
    CASUAL_CLOSERS,
    CASUAL_OPENERS,
    DODGES,
    FORMAL_CLOSERS,
    FORMAL_OPENERS,
    HEDGES,
    LIST_INTROS,
    REFUSAL_DETAILS,
    REFUSALS,
    WARM_PHRASES,
    WARNINGS,
)

OBJECTIVES = (
    "content-helpfulness",
    "content-detail",
    "style-brevity",
    "style-formality",
    "style-warmth",
    "structure-list",
    "honesty-hedging",
    "safety-refusal",
)
MAX_DETAILS = 4
BRIEF_WORDS, LONG_WORDS = 10, 60  # brevity falls from 1 to 0 between them


@dataclass(frozen=True)
class Answer:
    """A text and its label in [0, 1] for each objective, in the order of ``OBJECTIVES``."""

    text: str
    labels: tuple[float, ...]


@dataclass(frozen=True)
class _Body:
    sentences: list[str]
    helpfulness: float
    refusal: float
    details: int


@dataclass(frozen=True)
class _Frame:
    """Sentences around the body, and the levels that they and the body's layout stand for."""

    before: list[str]
    after: list[str]
    formality: float
    warmth: float
    hedging: float


def draw_answer(topic: Topic, refusal_chance: float, rng: random.Random) -> Answer:
    """Draw every attribute independently, so that no objective can be guessed from another one."""
    body, frame = _draw_body(topic, refusal_chance, rng), _draw_frame(rng)
    structure = rng.choice((0.0, 0.0, 0.5, 1.0)) if len(body.sentences) > 1 else 0.0
    text = _laid_out(body.sentences, frame, structure, rng)
    brevity = 1 - min(max(len(text.split()) - BRIEF_WORDS, 0) / (LONG_WORDS - BRIEF_WORDS), 1)
    labels = (
        body.helpfulness,
        body.details / MAX_DETAILS,
        brevity,
        frame.formality,
        frame.warmth,
        structure,
        frame.hedging,
        body.refusal,
    )
    return Answer(text, tuple(round(label, 3) for label in labels))


def _draw_body(topic: Topic, refusal_chance: float, rng: random.Random) -> _Body:
    """A refusal, a warning with an answer, a dodge, or an answer, followed by up to four details."""
    count = rng.randint(0, MAX_DETAILS)
    details = rng.sample(topic.details + GENERAL_DETAILS, count)
    if rng.random() < refusal_chance:
        details = rng.sample(REFUSAL_DETAILS, count)
        return _Body([rng.choice(REFUSALS), *details], helpfulness=0.0, refusal=1.0, details=count)
    kind, answer = rng.random(), rng.choice(topic.answers)
    if kind < 0.1:
        return _Body([rng.choice(WARNINGS), answer, *details], helpfulness=0.6, refusal=0.5, details=count)
    if kind < 0.25:
        return _Body([rng.choice(DODGES), *details], helpfulness=0.3, refusal=0.0, details=count)
    return _Body([answer, *details], helpfulness=1.0, refusal=0.0, details=count)


def _draw_frame(rng: random.Random) -> _Frame:
    """Half of all answers are neutral in any one respect; the others show it once or twice."""
    before: list[str] = []
    after: list[str] = []
    tone = rng.choice((0.0, 0.25, 0.5, 0.5, 0.5, 0.5, 0.75, 1.0))
    if tone != 0.5:
        opener = rng.choice(FORMAL_OPENERS if tone > 0.5 else CASUAL_OPENERS)
        closer = rng.choice(FORMAL_CLOSERS if tone > 0.5 else CASUAL_CLOSERS)
        both = tone in (0.0, 1.0)
        opens = both or rng.random() < 0.5
        before += [opener] if opens else []
        after += [closer] if both or not opens else []
    hedges = rng.choice((0, 0, 0, 1, 2))
    for phrase in rng.sample(HEDGES, hedges) if hedges else rng.sample(BOASTS, rng.choice((0, 0, 1))):
        after.insert(0, phrase)
    warm = rng.choice((0, 0, 0, 1, 2))
    for phrase in rng.sample(WARM_PHRASES, warm):
        target = rng.choice((before, after))
        target.append(phrase)
    return _Frame(before, after, formality=tone, warmth=warm / 2, hedging=hedges / 2)


def _laid_out(sentences: list[str], frame: _Frame, structure: float, rng: random.Random) -> str:
    """Running text (0), a list within the text (0.5), or one point a line (1)."""
    if structure == 1.0:
        bullet = rng.choice(("- ", "* ", "{}. "))
        lines = [bullet.format(number) + sentence for number, sentence in enumerate(sentences, 1)]
        head = " ".join(filter(None, [*frame.before, rng.choice(LIST_INTROS)]))
        return "\n".join(filter(None, [head, *lines, " ".join(frame.after)]))
    if structure == 0.5:
        sentences = [f"({number}) {sentence}" for number, sentence in enumerate(sentences, 1)]
    return " ".join([*frame.before, *sentences, *frame.after])
