"""How far a session has come: its steps, and the scores of what was computed of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rmruntime.records import Conversation, Message, Request
from rmruntime.scores import Score
from rmruntime.sessions.known_rows import Reading

READINGS = 16  # that are remembered: of candidates that are looked at before one is appended


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The steps after a prompt, and what is known of them.

    `by_step`: the head scores steps, all those of a solution at once; `scores` has then one score, or none where it is
    not computed. Other heads judge answers: `scores` are those of the answer after the first piece, after the second,
    and so on, as far as they were computed; `joiner` stands between pieces, and `tail` is the number of tokens that the
    template has after every answer, after which the next piece does not come.
    """

    prompt: tuple[Message, ...]
    by_step: bool
    joiner: str
    tail: int = 0
    steps: tuple[str, ...] = ()
    scores: tuple[Score, ...] = ()
    readings: tuple[Reading, ...] = field(default=(), repr=False)

    @property
    def is_scored(self) -> bool:
        """Whether nothing is left to compute."""
        return len(self.scores) == (min(1, len(self.steps)) if self.by_step else len(self.steps))

    @property
    def values(self) -> tuple[float, ...]:
        """One for each step of those that are scored."""
        if self.by_step:
            return self.scores[-1].steps or () if self.scores else ()
        return tuple(score.value for score in self.scores if score.value is not None)

    def extended(self, steps: Sequence[str]) -> "Progress":
        """With steps after its own, which may change the tokens before them: a head that scores steps begins anew."""
        if not steps:
            return self
        return replace(self, steps=(*self.steps, *steps), scores=() if self.by_step else self.scores)

    def shortened(self, count: int) -> "Progress":
        """Without its last steps."""
        if not count:
            return self
        steps = self.steps[: len(self.steps) - count]
        return replace(self, steps=steps, scores=() if self.by_step else self.scores[: len(steps)])

    def scored(self, scores: Sequence[Score], readings: Sequence[Reading]) -> "Progress":
        """With the scores of its `requests`, and what was read for them, of which the last has all of its own steps."""
        return replace(self, scores=(*self.scores, *scores), readings=tuple(readings[-1:]) or self.readings)

    def peeked(self, longer: "Progress") -> "Progress":
        """With what was learnt from scoring it with further steps."""
        scores = self.scores if self.by_step else longer.scores[: len(self.steps)]
        return replace(self, scores=scores, readings=(*longer.readings, *self.readings)[:READINGS])

    def requests(self) -> list[Request]:
        """What must be scored before all is."""
        if self.is_scored:
            return []
        if self.by_step:
            return [Request(kind="steps", conversations=(Conversation(messages=self.prompt),), steps=self.steps)]
        counts = range(len(self.scores) + 1, len(self.steps) + 1)
        return [self.answered(self.joiner.join(self.steps[:count])) for count in counts]

    def answered(self, answer: str) -> Request:
        """The prompt with an answer."""
        messages = (*self.prompt, Message("assistant", answer))
        return Request(kind="single", conversations=(Conversation(messages=messages),))
