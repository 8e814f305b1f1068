"""The connection to Ray, and the blocks that go through it. Only this file imports Ray, by name."""

import importlib
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import TextIOBase
from typing import Any, TextIO

from rmruntime.cluster.pool import Pool
from rmruntime.cluster.scorer import BlockScorer, Job, Task
from rmruntime.errors import ClusterError, EngineNotInstalled, OptionError

STORE_BYTES = 100 << 20  # object store of a local cluster: only names of blocks and summaries go through it
MESSAGE = 240  # characters of one of Ray's messages
_NAMED = re.compile(r"[\w.]*(Error|Exception|Died)\b.*: ")
REACH_SECONDS = 5.0  # Ray itself tries for minutes, and says so on standard error all the while


def import_ray() -> Any:
    """The module ray, with ray.data; raises EngineNotInstalled that names the extra."""
    try:
        importlib.import_module("ray.data")
    except ModuleNotFoundError as error:
        raise EngineNotInstalled(
            f"engine 'ray': {error.name} is not installed; run pip install 'rmruntime[ray]'"
        ) from error
    return importlib.import_module("ray")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ray, connected to the cluster at `address`; a local cluster is shut down when the context ends.

    Raises ClusterError when the cluster cannot be reached.
    """
    _check_address(address)
    ray = import_ray()
    _be_quiet()
    if ray.is_initialized():
        raise ClusterError("this process is connected to a Ray cluster already; call ray.shutdown() first")
    options = _local() if address == "local" else {}
    with redirect_stdout(_FirstLines(sys.stderr)):  # Ray reports dead workers on standard output, which is the user's
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ClusterError(
                f"address {address!r}: no Ray cluster can be reached ({_cause(error)}); start one with "
                "`ray start --head`, or give the address of one that runs"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def outcomes(ray: Any, pool: Pool, job: Job, tasks: Sequence[Task]) -> Iterator[str]:
    """The scorers' results as they come, each the JSON of an Outcome.

    Ray Data gives them their blocks; it restarts scorers that die, and gives their blocks out again.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = ray.data.from_items([{"task": task.encoded()} for task in tasks], override_num_blocks=len(tasks))
    scored = rows.map_batches(
        BlockScorer,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(pool.workers, len(tasks)), max_tasks_in_flight_per_actor=1),
        fn_constructor_kwargs={"job": job},
        num_cpus=pool.cpus,
        num_gpus=pool.gpus or None,
    )
    try:
        for row in scored.iter_rows():
            yield row["outcome"]
    except ray.exceptions.RayError as error:
        raise ClusterError(
            f"Ray stopped: {_cause(error)}; see that every machine has this rmruntime and the engine, then give the "
            "same command again; Ray's logs have the details"
        ) from error


class _FirstLines(TextIOBase):
    """Passes on the first line of each message; the indented lines below it are the log of a process that died."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line[:1].strip():
                self._target.write(f"{line[:MESSAGE]}\n")
        return len(text)


def _check_address(address: str) -> None:
    """Raises at once where nothing listens at the address; Ray itself would try for minutes."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()) or "/" in host:
        raise OptionError(f"address is {address!r}, expected local, auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"address {address!r}: nothing answers there ({error}); start a cluster with `ray start --head`, and give "
            "the address that it prints"
        ) from error


def _local() -> dict[str, Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a local cluster sends no usage statistics
    return {"include_dashboard": False, "object_store_memory": STORE_BYTES}


def _be_quiet() -> None:
    """Switch off Ray's progress messages; failures are reported as exceptions or outcomes."""
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"  # it calls an error what Ray Data always does to restart actors
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _cause(error: BaseException) -> str:
    """The line that names the exception, of a text that may hold a worker's traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if _NAMED.match(line)), lines[-1])
