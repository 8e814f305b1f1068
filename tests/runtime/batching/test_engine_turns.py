"""Turns: one at a time, batches and requests in alternation, the first to ask first, and none lost to an interrupt."""

import threading

import pytest

from gated_engine import PATIENCE, wait_until
from rmruntime.batching.engine_turns import EngineTurns


class Asking:
    """Threads that ask for a turn one after another, each noted once it has had it."""

    def __init__(self) -> None:
        self.turns, self.had = EngineTurns(), list[str]()
        self._threads: list[threading.Thread] = []

    def ask(self, name: str) -> None:
        """`name` begins with r for a request, with b for a batch. Returns once it waits."""
        waiting = self.turns._waiting["requests" if name[0] == "r" else "batches"]
        before = len(waiting)
        self._threads.append(threading.Thread(target=self._take, args=(name,)))
        self._threads[-1].start()
        wait_until(lambda: len(waiting) > before)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)

    def _take(self, name: str) -> None:
        with self.turns.of_requests() if name[0] == "r" else self.turns.of_batches():
            self.had.append(name)


def test_a_free_engine_is_had_at_once() -> None:
    turns = EngineTurns()
    for _ in range(3):
        with turns.of_batches():
            pass
        with turns.of_requests():
            pass


def test_batches_and_requests_alternate_and_the_first_to_ask_is_first() -> None:
    asking = Asking()
    with asking.turns.of_batches():
        for name in ("b1", "b2", "b3", "r1", "r2"):
            asking.ask(name)
    asking.join()
    assert asking.had == ["r1", "b1", "r2", "b2", "b3"]


def test_an_error_in_a_turn_hands_it_on() -> None:
    asking = Asking()
    with pytest.raises(ZeroDivisionError), asking.turns.of_requests():
        asking.ask("b1")
        raise ZeroDivisionError
    asking.join()
    assert asking.had == ["b1"]


@pytest.mark.parametrize("came", [False, True])
def test_an_interrupt_while_waiting_loses_no_turn(monkeypatch: pytest.MonkeyPatch, came: bool) -> None:
    """Whether the turn came just before it, or not."""
    asking = Asking()
    holder = asking.turns.of_batches()
    holder.__enter__()

    class Gate:
        def acquire(self) -> None:
            if came:
                holder.__exit__(None, None, None)
            raise KeyboardInterrupt

        def release(self) -> None:
            pass

    gate = Gate()

    def asked(own: str) -> Gate:
        asking.turns._waiting[own].append(gate)  # type: ignore[arg-type] # a lock that is interrupted
        return gate

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(asking.turns, "_asked", asked)
        asking.turns.of_requests().__enter__()
    if not came:
        asking.ask("b1")
        holder.__exit__(None, None, None)
        asking.join()
        assert asking.had == ["b1"]
    with asking.turns.of_requests():
        asking.had.append("free")
    assert asking.had[-1] == "free"
