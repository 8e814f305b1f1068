"""Arrivals and the queue policy, under a clock that only moves when told."""

from collections.abc import Sequence

import numpy as np
import pytest

from rmexport.bench.worker.open_loop import MOST_ARRIVALS, Arrival, Policy, poisson_arrivals, send, serve


class FakeClock:
    """Seconds pass when someone sleeps or scores."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds


class FakeScorer:
    """Takes `seconds` a pass and notes what was in it."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self.passes: list[list[int]] = []

    def __call__(self, requests: Sequence[int]) -> None:
        self.passes.append(list(requests))
        self._clock.seconds += self._seconds


def arrivals(*times: float) -> list[Arrival]:
    return [Arrival(at, number) for number, at in enumerate(times)]


def test_poisson_arrivals_have_the_rate_and_the_law() -> None:
    found = poisson_arrivals(200.0, 50.0, 7, seed=1)
    gaps = np.diff([arrival.at for arrival in found])
    # 10000 arrivals: the count's standard deviation is 1 %, an exponential's is its mean
    assert len(found) == pytest.approx(10000, rel=0.05) and gaps.min() > 0
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05) and gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert {arrival.request for arrival in found} == set(range(7)) and found[-1].at < 50


def test_poisson_arrivals_are_seeded_and_bounded() -> None:
    assert poisson_arrivals(5.0, 9.0, 3, 0) == poisson_arrivals(5.0, 9.0, 3, 0) != poisson_arrivals(5.0, 9.0, 3, 1)
    assert len(poisson_arrivals(1e9, 1e6, 1, 0)) == MOST_ARRIVALS
    assert len(poisson_arrivals(1e-6, 1.0, 1, 0)) == 1


def test_latency_runs_from_the_scheduled_time_and_waiting_requests_go_together() -> None:
    clock = FakeClock()
    score = FakeScorer(clock, 1.0)
    served = serve(arrivals(0.5, 0.6, 0.7, 5.0), score, Policy([1] * 4, 8, 60.0), clock)
    assert score.passes == [[0], [1, 2], [3]]
    expected = [(0.5, 1.5), (0.6, 2.5), (0.7, 2.5), (5.0, 6.0)]
    assert all(sample == pytest.approx(pair) for sample, pair in zip(served.samples, expected, strict=True))
    assert served.unfinished == 0 and served.last_pass_s == pytest.approx(5.0)


def test_a_pass_holds_what_fits_in_the_budget_and_at_least_one() -> None:
    clock = FakeClock()
    score = FakeScorer(clock, 1.0)
    serve(arrivals(*[0.0] * 5), score, Policy([3, 3, 9, 1, 4], 6, 60.0), clock)
    assert score.passes == [[0, 1], [2], [3, 4]]


def test_a_machine_that_is_busy_until_the_end_still_scores_something() -> None:
    class Waking(FakeClock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds + 60.0)  # something else ran meanwhile

    clock = Waking()
    score = FakeScorer(clock, 1.0)
    served = serve(arrivals(0.1, 0.2, 9.0), score, Policy([1] * 3, 8, 0.4), clock)
    assert score.passes == [[0, 1, 2]] and len(served.samples) == 3 and served.unfinished == 0
    served = serve(arrivals(0.1, 0.2, 90.0), FakeScorer(clock, 1.0), Policy([1] * 3, 8, 0.4), clock)
    assert len(served.samples) == 2 and served.unfinished == 1


def test_a_rate_nothing_can_reach_ends() -> None:
    clock = FakeClock()
    score = FakeScorer(clock, 1.0)
    served = serve(arrivals(*np.linspace(0, 10, 1000)), score, Policy([1] * 1000, 2, 20.0), clock)
    assert clock.now() - 100.0 <= 21.0 and len(served.samples) + served.unfinished == 1000 and served.unfinished > 900


def test_a_server_gets_each_request_when_it_is_due() -> None:
    clock = FakeClock()
    begin, asked = clock.now(), list[int]()
    served = send(arrivals(0.5, 0.6, 5.0), asked.append, 60.0, clock)
    assert sorted(asked) == [0, 1, 2] and served.unfinished == 0 and clock.now() - begin == pytest.approx(5.0)
    assert [at for at, _ in served.samples] == [0.5, 0.6, 5.0] and all(done >= at for at, done in served.samples)
    assert 0 <= served.last_pass_s <= 5.0  # when the last could have begun: no later than it was done


def test_a_server_s_error_ends_the_run() -> None:
    def refuse(number: int) -> None:
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        send(arrivals(0.1, 0.2), refuse, 60.0, FakeClock())
