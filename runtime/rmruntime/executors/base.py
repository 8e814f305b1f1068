"""The interface of executors: passes are submitted, futures of their outputs returned; and the simplest executor."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from rmruntime.backends.base import Backend, Feeds, KeyMemory, Outputs, key_memory_of
from rmruntime.bundle.manifest import Graph
from rmruntime.errors import RewardModelError
from rmruntime.executors.page_pool import PagePool


class PassExecutor(ABC):
    """Runs passes of one model, in the order in which they are submitted; safe from several threads.

    `name` and `precision` are reported with scores. `reason` is why this engine was chosen, as a clause that follows
    "because"; empty where it was not chosen by rule. `graph` determines the inputs of a pass, `batch_tokens` is the
    recommended number of tokens in one. Callers with many passes should submit `wave_tokens` tokens at a time (0: one
    pass at a time), with `ahead` further submissions waiting while results are awaited. Where `graph` takes a past, up
    to `cache_bytes` bytes of keys and values may be kept for it; `cache_note` says why there is no cache, where one was
    asked for. Engines that keep them on devices have `key_memories`, and for those in pages there is a `page_pool`.
    """

    name: str
    precision: str
    reason: str = ""
    graph: Graph
    batch_tokens: int
    wave_tokens: int = 0
    ahead: int = 0
    cache_bytes: int = 0
    cache_note: str = ""
    key_memories: Sequence[KeyMemory] = ()
    page_pool: PagePool | None = None

    @abstractmethod
    def submit(self, passes: Sequence[Feeds]) -> Sequence[Future[Outputs]]:
        """A future for each pass, which raises what `Backend.run` raises. Raises RewardModelError once closed."""

    @abstractmethod
    def close(self) -> None:
        """Free the engines; waits for what they are computing, and passes that have not begun are cancelled."""


def page_pool_of(graph: Graph, memories: Sequence[KeyMemory]) -> PagePool | None:
    """The pages of all layers together, of the engines that run a graph or its stages; None where there are none."""
    count = min((memory.pages for memory in memories), default=0)
    if not count:
        return None
    token_bytes = sum(memory.token_bytes for memory in memories)
    return PagePool(count=count, page_size=graph.page_size, page_bytes=graph.page_size * token_bytes)


def closed_error() -> RewardModelError:
    """The error of scoring with a closed model.

    >>> raise closed_error()
    Traceback (most recent call last):
    rmruntime.errors.RewardModelError: this RewardModel is closed; load the bundle again
    """
    return RewardModelError("this RewardModel is closed; load the bundle again")


class DirectExecutor(PassExecutor):
    """Runs each pass when it is submitted, on the thread that submits it."""

    def __init__(self, backend: Backend, reason: str = "") -> None:
        self.name, self.precision, self.reason = backend.name, backend.precision, reason
        self.graph, self.batch_tokens = backend.graph, backend.batch_tokens
        self._backend = backend
        self.key_memories = key_memory_of(backend)
        self.page_pool = page_pool_of(self.graph, self.key_memories)
        self._lock, self._closed = threading.Lock(), False

    def submit(self, passes: Sequence[Feeds]) -> Sequence[Future[Outputs]]:
        return [self._run(feeds) for feeds in passes]

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._backend.close()

    def _run(self, feeds: Feeds) -> Future[Outputs]:
        future: Future[Outputs] = Future()
        with self._lock:
            if self._closed:
                raise closed_error()
            try:
                future.set_result(self._backend.run(feeds))
            except Exception as error:  # of any type: the future raises it
                future.set_exception(error)
        return future
