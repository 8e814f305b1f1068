"""The server scenario: requests arrive whether or not earlier ones are done.

Contestants that score a batch when called all have the same queue; servers get each request when it is due.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

MOST_ARRIVALS = 200_000  # in one run, so that a very high rate does not fill the memory
MOST_IN_FLIGHT = 256  # requests that a server has at once; later ones wait here, and their latency includes that


@dataclass(frozen=True)
class Arrival:
    """The request number `request`, which arrives `at` seconds after the start."""

    at: float
    request: int


@dataclass(frozen=True)
class Policy:
    """How requests are batched: a pass takes waiting requests, oldest first, while their weights fit in `budget`.

    `weights` has the weight of every request. The run stops after `stop_s` seconds, even where requests still wait, but
    not before one pass was scored.
    """

    weights: Sequence[int]
    budget: int
    stop_s: float


@dataclass(frozen=True)
class Served:
    """The result of a run: `samples` are (scheduled, done) of every scored request, in seconds after the start.

    `unfinished` counts requests without a score; `last_pass_s` is when the last pass began, or could have begun.
    """

    samples: list[tuple[float, float]]
    unfinished: int
    last_pass_s: float


class Clock(Protocol):
    """Time in seconds; tests have a clock of their own."""

    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class WallClock:
    """Real time."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def poisson_arrivals(rate: float, duration_s: float, requests: int, seed: int) -> list[Arrival]:
    """Poisson arrivals at `rate` per second, within `duration_s` seconds; at least one.

    Each is one of `requests` requests, drawn uniformly; the same seed and rate make the same arrivals.

    >>> found = poisson_arrivals(rate=10.0, duration_s=1.0, requests=4, seed=0)
    >>> all(0 <= arrival.at < 1 and arrival.request in range(4) for arrival in found)
    True
    """
    rng = random.Random(f"{seed}/{rate!r}")
    arrivals: list[Arrival] = []
    at = rng.expovariate(rate)
    while at < duration_s and len(arrivals) < MOST_ARRIVALS:
        arrivals.append(Arrival(at, rng.randrange(requests)))
        at += rng.expovariate(rate)
    return arrivals or [Arrival(0.0, rng.randrange(requests))]


def serve(arrivals: Sequence[Arrival], score: Callable[[list[int]], object], policy: Policy, clock: Clock) -> Served:
    """Score arrivals in their order with `score(request numbers)`; requests that arrive during a pass wait for its end.

    >>> policy = Policy(weights=[1], budget=8, stop_s=1.0)
    >>> serve([Arrival(at=0.0, request=0)], lambda numbers: None, policy, WallClock()).unfinished
    0
    """
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
    """Take the requests of the next pass out of `waiting`; at least one, however large.

    >>> waiting = deque([Arrival(0.0, 0), Arrival(0.1, 1), Arrival(0.2, 2)])
    >>> [arrival.request for arrival in take(waiting, Policy(weights=[3, 4, 5], budget=8, stop_s=1.0))]
    [0, 1]
    """
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
