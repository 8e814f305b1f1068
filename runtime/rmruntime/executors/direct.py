"""One engine, one pass at a time, whatever thread asks."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future

from rmruntime.backends.base import Backend, Feeds, Outputs
from rmruntime.executors.base import PassExecutor, closed_error


class DirectExecutor(PassExecutor):
    """Runs each pass when it is submitted, on the thread that submits it."""

    def __init__(self, backend: Backend, reason: str = "") -> None:
        self.name, self.precision, self.reason = backend.name, backend.precision, reason
        self.graph, self.batch_tokens = backend.graph, backend.batch_tokens
        self._backend = backend
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
            except Exception as error:  # of any type: it is the future's to raise
                future.set_exception(error)
        return future
