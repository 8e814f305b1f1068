"""Writes and hashes files, several at a time, and stops all when one fails or the user interrupts."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from rmexport.weights.stream import Monitor, Stopped

_WORKERS = 4  # at most; each holds five buffers of a megabyte


@dataclass(frozen=True)
class Job:
    """`run` handles `size` bytes, advances the monitor by as many, and returns their sha256."""

    name: str
    size: int
    run: Callable[[Monitor], str]


def run_jobs(jobs: Sequence[Job], monitor: Monitor) -> dict[str, str]:
    """The sha256 of each job by name, after all are done. Raises what the first that failed raised.

    >>> run_jobs([Job("empty.safetensors", size=0, run=lambda monitor: "e3b0c442")], Monitor(None))
    {'empty.safetensors': 'e3b0c442'}
    """
    workers = max(1, min(_WORKERS, os.cpu_count() or 1, len(jobs)))
    with ThreadPoolExecutor(workers) as pool:
        running = {job.name: pool.submit(job.run, monitor) for job in jobs}
        try:
            wait(running.values(), return_when=FIRST_EXCEPTION)
        finally:  # an interrupt ends up here too, while the workers are still at it
            if not all(future.done() and not future.exception() for future in running.values()):
                monitor.stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
    _raise_first(running.values())
    return {name: future.result() for name, future in running.items()}


def _raise_first(futures: Iterable[Future[str]]) -> None:
    for future in futures:
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, Stopped):
            raise error
