"""A pass of the reference over some sequences: what it computes before any head, and what it costs."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Clock = Callable[[], float]  # seconds from some moment on


@dataclass(frozen=True, kw_only=True)
class SequenceStates:
    """What transformers computes for one sequence: the same whatever else is computed beside it.

    `values` are final hidden states [P, hidden] by role, or an encoder's logits [1, labels], in fp32, which holds every
    16-bit value exactly. `peaks` are the largest activations by layer, none where none was watched.
    """

    values: Mapping[str, NDArray[np.float32]]
    peaks: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds that a pass spends on loading weights, and on each token then."""

    loading: float
    per_token: float

    def seconds(self, tokens: int) -> float:
        """What a pass over `tokens` tokens takes.

        >>> Speed(loading=2.0, per_token=0.5).seconds(10)
        7.0
        """
        return self.loading + tokens * self.per_token


def ignore_count(count: int) -> None:
    """For those who do not watch a pass."""


class Meter:
    """Times a pass, and tells `advance` how many more tokens are done."""

    def __init__(self, clock: Clock = time.perf_counter, advance: Callable[[int], object] = ignore_count) -> None:
        self._clock, self._advance = clock, advance
        self._loading = 0.0
        self._done = 0.0  # tokens; a layer of a token is a part of one
        self._told = 0
        self._seconds = {True: 0.0, False: 0.0}  # by whether it was the first work of its kind
        self._tokens = {True: 0.0, False: 0.0}

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around what reads weights."""
        begin = self._clock()
        yield
        self._loading += self._clock() - begin

    @contextmanager
    def computing(self, tokens: float, *, first: bool) -> Iterator[None]:
        """Around what computes `tokens`, or that part of them that a layer is; the `first` pays for starting up too."""
        begin = self._clock()
        yield
        self._seconds[first] += self._clock() - begin
        self._tokens[first] += tokens
        self._done += tokens
        self._advance(round(self._done) - self._told)
        self._told = round(self._done)

    @property
    def speed(self) -> Speed:
        """What was measured, of the first work only where there was no other.

        >>> meter = Meter(clock=iter((0.0, 3.0, 3.0, 5.0)).__next__)
        >>> with meter.loading():
        ...     pass
        >>> with meter.computing(4, first=True):
        ...     pass
        >>> meter.speed
        Speed(loading=3.0, per_token=0.5)
        """
        first = not self._tokens[False]
        tokens = self._tokens[first]
        return Speed(loading=self._loading, per_token=self._seconds[first] / tokens if tokens else 0.0)
