"""Whose pass the engine computes next, where a long batch and single requests want it at the same time."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


class EngineTurns:
    """One turn at a time. Batches and submitted requests alternate while both wait; among batches, the first to ask.

    So a request that is submitted while another thread scores ten thousand records waits for one pass of that batch,
    however many threads score, and the batch has every second pass.
    """

    def __init__(self) -> None:
        self._lock, self._taken = threading.Lock(), False
        self._waiting: dict[str, deque[threading.Lock]] = {"batches": deque(), "requests": deque()}

    def of_batches(self) -> AbstractContextManager[None]:
        """Wait for a turn of the engine, and hand it on at the end; for callers that score many records."""
        return self._of("batches", "requests")

    def of_requests(self) -> AbstractContextManager[None]:
        """The same for the queue of submitted requests."""
        return self._of("requests", "batches")

    @contextmanager
    def _of(self, own: str, other: str) -> Iterator[None]:
        gate = self._asked(own)
        try:
            gate.acquire()
        except BaseException:  # an interrupt: the turn may have come just before
            if not self._withdrawn(own, gate):
                self._hand_on(other, own)
            raise
        try:
            yield
        finally:
            self._hand_on(other, own)

    def _asked(self, own: str) -> threading.Lock:
        """A lock that can be taken once the turn has come."""
        gate = threading.Lock()
        with self._lock:
            if self._taken:
                gate.acquire()
                self._waiting[own].append(gate)
            self._taken = True
        return gate

    def _withdrawn(self, own: str, gate: threading.Lock) -> bool:
        """Whether it was still waiting."""
        with self._lock:
            if gate not in self._waiting[own]:
                return False
            self._waiting[own].remove(gate)
            return True

    def _hand_on(self, *kinds: str) -> None:
        """To the first of the first kind that waits."""
        with self._lock:
            waiting = next((self._waiting[kind] for kind in kinds if self._waiting[kind]), None)
            if waiting is None:
                self._taken = False
            else:
                waiting.popleft().release()
