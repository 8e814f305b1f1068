"""How many tokens a second are scored lately, from which clients are told when to come back."""

import math
import time
from collections.abc import Callable

HALF_LIFE = 10.0  # seconds after which what was scored counts half


class Throughput:
    """Tokens per second, where what is long ago counts less.

    >>> seconds = iter([0.0, 1.0, 2.0, 2.0])
    >>> throughput = Throughput(lambda: next(seconds))
    >>> throughput.add(1000), throughput.add(1000)
    (None, None)
    >>> round(throughput.seconds_for(2000))
    2
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()
        self._tokens = self._seconds = 0.0

    def add(self, tokens: int) -> None:
        """Count tokens that were scored until now."""
        self._age()
        self._tokens += tokens

    def seconds_for(self, tokens: int) -> float:
        """How long that many would take; 0 before anything was scored."""
        self._age()
        return tokens * self._seconds / self._tokens if self._tokens else 0.0

    def _age(self) -> None:
        now = self._clock()
        passed, self._last = now - self._last, now
        weight = math.exp2(-passed / HALF_LIFE)
        self._tokens, self._seconds = self._tokens * weight, self._seconds * weight + passed
