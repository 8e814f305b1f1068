"""The connection to Ray, and how many scorers the cluster has room for. Only this file imports Ray, by name."""

import importlib
import logging
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

from rmruntime.backends import backends
from rmruntime.cluster.options import ClusterOptions
from rmruntime.cluster.scorer import BlockScorer, Job, Task
from rmruntime.errors import BackendError, ClusterError, EngineNotInstalled, OptionError
from rmruntime.score_file import FileOptions

STORE_BYTES = 100 << 20  # of a cluster of our own: what passes through it is names of blocks
_NAMED = re.compile(r"[\w.]*(Error|Exception|Died)\b.*: ")
REACH_SECONDS = 5.0  # Ray itself tries for minutes, and says so on standard error all the while


@dataclass(frozen=True, kw_only=True)
class Pool:
    """`workers` scorers, each with `cpus` cores and `gpus` GPUs, on `machines` machines; `files` is what each loads."""

    workers: int
    cpus: int
    gpus: int
    machines: int
    files: FileOptions


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
    """The module ray, connected; a cluster of our own ends with the context.

    Raises ClusterError when the cluster cannot be reached.
    """
    _check_address(address)
    ray = import_ray()
    _be_quiet()
    if ray.is_initialized():
        raise ClusterError("this process is connected to a Ray cluster already; call ray.shutdown() first")
    options = _local() if address == "local" else {}
    with redirect_stdout(sys.stderr):  # where Ray reports dead workers: standard output is not its own
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise ClusterError(f"address {address!r}: no Ray cluster can be reached ({_cause(error)})") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def pool_for(ray: Any, files: FileOptions, options: ClusterOptions) -> Pool:
    """As many scorers as asked for, or one a GPU, or one a machine.

    Raises ClusterError when the cluster has no room for them.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    files = replace(files, device=_device(files.device, nodes))
    gpus = int(_on_gpu(files.device))
    cpus = _cpus(files.threads, options.workers, nodes, gpus)
    room = [_room(node, cpus, gpus) for node in nodes]
    workers = options.workers or sum(room)
    if not workers or workers > sum(room):
        each = f"{cpus} core{'' if cpus == 1 else 's'}{' and a GPU' if gpus else ''}"
        raise ClusterError(
            f"found room for {sum(room)} workers of {each}, expected room for {max(workers, 1)}; choose fewer "
            f"--workers or --threads{', or --device cpu' if gpus else ''}"
        )
    threads = files.threads if gpus else cpus
    machines = min(workers, sum(1 for n in room if n))
    return Pool(workers=workers, cpus=cpus, gpus=gpus, machines=machines, files=replace(files, threads=threads))


def outcomes(ray: Any, pool: Pool, job: Job, tasks: Sequence[Task]) -> Iterator[str]:
    """What the scorers give back, as they do; Ray Data feeds them, and restarts and feeds again those that die."""
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
            f"Ray could not go on: {_cause(error)}; see that every machine has this rmruntime and the engine, "
            "then give the same command again; Ray's logs say more"
        ) from error


def _check_address(address: str) -> None:
    """A cluster that nobody listens for is found out at once."""
    if address in ("local", "auto"):
        return
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdigit()) or "/" in host:
        raise OptionError(f"address is {address!r}, expected local, auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"address {address!r}: nothing answers there ({error}); start a cluster with `ray start --head`, and give "
            "the address that it prints"
        ) from error


def _local() -> dict[str, Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # a cluster of our own reports to nobody
    return {"include_dashboard": False, "object_store_memory": STORE_BYTES}


def _be_quiet() -> None:
    """Ray's news of every step; what goes wrong comes back as an exception or an outcome."""
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"  # it calls an error what Ray Data always does to restart actors
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _device(device: str, nodes: Sequence[dict[str, float]]) -> str:
    """GPUs where `auto` finds some in the cluster; which of them a scorer gets is Ray's choice."""
    if ":" in device:
        raise OptionError(f"device is {device!r}, and on a cluster Ray chooses the GPU; say {device.split(':')[0]!r}")
    if device != "auto":
        return device
    return "cuda" if any(node.get("GPU", 0) >= 1 for node in nodes) else "cpu"


def _on_gpu(device: str) -> bool:
    known = backends()
    named = [known[device]] if device in known else [m for m in known.values() if device in m.DEVICES]
    if not named:
        names = sorted({"auto", *known, *(d for m in known.values() for d in m.DEVICES)})
        raise BackendError(f"unknown device {device!r}; expected one of {', '.join(names)}")
    return "cuda" in named[0].DEVICES


def _cpus(threads: int, workers: int | None, nodes: Sequence[dict[str, float]], gpus: int) -> int:
    """Cores of a scorer: its threads; by default one beside a GPU, else an equal share, at most a whole machine."""
    if threads or gpus:
        return threads or 1
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not cores:
        return 1
    return max(1, min(*cores, sum(cores) // (workers or len(cores)), max(cores)))


def _room(node: dict[str, float], cpus: int, gpus: int) -> int:
    return int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else sys.maxsize))


def _cause(error: BaseException) -> str:
    """The line that names the exception, of a text that may hold a worker's traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if _NAMED.match(line)), lines[-1])
