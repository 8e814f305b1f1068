"""The server scenario: arrivals that do not wait for answers.

Contestants that score a batch when called have one queue policy; servers get each request when it is due.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

MOST_ARRIVALS = 200_000  # of one run: a rate nothing can reach must not fill the memory
MOST_IN_FLIGHT = 256  # requests that a server has at once; later ones wait here, and their latency counts that


@dataclass(frozen=True)
class Arrival:
    """Request number `request`, due `at` seconds after the start."""

    at: float
    request: int


@dataclass(frozen=True)
class Policy:
    """All waiting requests, oldest first, go into the next pass as long as their weights fit in `budget`.

    The run is given up after `stop_s` seconds, whatever still waits, but not before something was scored.
    """

    weights: Sequence[int]
    budget: int
    stop_s: float


@dataclass(frozen=True)
class Served:
    """`samples` are (scheduled, done) in seconds; `last_pass_s` is when the last pass began, or could have begun."""

    samples: list[tuple[float, float]]
    unfinished: int
    last_pass_s: float


class Clock(Protocol):
    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class WallClock:
    """Real time."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def poisson_arrivals(rate: float, duration_s: float, requests: int, seed: int) -> list[Arrival]:
    """Seeded arrivals at `rate` a second within [0, duration), requests drawn uniformly; at least one."""
    rng = random.Random(f"{seed}/{rate!r}")
    arrivals: list[Arrival] = []
    at = rng.expovariate(rate)
    while at < duration_s and len(arrivals) < MOST_ARRIVALS:
        arrivals.append(Arrival(at, rng.randrange(requests)))
        at += rng.expovariate(rate)
    return arrivals or [Arrival(0.0, rng.randrange(requests))]


def serve(arrivals: Sequence[Arrival], score: Callable[[list[int]], object], policy: Policy, clock: Clock) -> Served:
    """Score arrivals in their order; a pass that is running delays those that come meanwhile."""
    waiting: deque[Arrival] = deque()
    samples: list[tuple[float, float]] = []
    coming, last_pass_s, begin = 0, 0.0, clock.now()
    while len(samples) < len(arrivals):
        now = clock.now() - begin
        if samples and now > policy.stop_s:
            break
        while coming < len(arrivals) and arrivals[coming].at <= now:
            waiting.append(arrivals[coming])
            coming += 1
        if not waiting:
            clock.sleep(arrivals[coming].at - now)
            continue
        batch, last_pass_s = take(waiting, policy), now
        score([arrival.request for arrival in batch])
        done = clock.now() - begin
        samples += [(arrival.at, done) for arrival in batch]
    return Served(samples, len(arrivals) - len(samples), last_pass_s)


def take(waiting: deque[Arrival], policy: Policy) -> list[Arrival]:
    """The next pass; at least one request, however large."""
    batch = [waiting.popleft()]
    room = policy.budget - policy.weights[batch[0].request]
    while waiting and policy.weights[waiting[0].request] <= room:
        room -= policy.weights[waiting[0].request]
        batch.append(waiting.popleft())
    return batch


def send(arrivals: Sequence[Arrival], answer: Callable[[int], object], stop_s: float, clock: Clock) -> Served:
    """Send each arrival to a server when it is due; `answer` returns when that request is answered.

    Given up after `stop_s` seconds, but not before something was answered; what is in flight then is waited for and not
    counted. Raises what `answer` raises.
    """
    samples: list[tuple[float, float]] = []
    begin = clock.now()

    def ask(arrival: Arrival) -> None:
        answer(arrival.request)
        samples.append((arrival.at, clock.now() - begin))

    with ThreadPoolExecutor(MOST_IN_FLIGHT) as threads:
        futures = []
        for arrival in arrivals:
            if (early := arrival.at - (clock.now() - begin)) > 0:
                clock.sleep(early)
            futures.append(threads.submit(ask, arrival))
        wait(futures, return_when=FIRST_COMPLETED)
        done, late = wait(futures, timeout=max(0.0, stop_s - (clock.now() - begin)))
        for future in done:
            future.result()
        answered = sorted(samples)
        for future in late:
            future.cancel()
    fastest = min(end - at for at, end in answered)
    return Served(answered, len(arrivals) - len(answered), max(end for _, end in answered) - fastest)
