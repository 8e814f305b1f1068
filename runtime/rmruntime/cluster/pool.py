"""Decides how many scorers run on a cluster, and how many cores and GPUs each gets."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rmruntime.backends import backends
from rmruntime.cluster.options import ClusterOptions
from rmruntime.errors import BackendError, ClusterError, OptionError
from rmruntime.score_file import FileOptions


@dataclass(frozen=True, kw_only=True)
class Pool:
    """`workers` scorers, each with `cpus` cores and `gpus` GPUs, and the options that each loads the bundle with."""

    workers: int
    cpus: int
    gpus: int
    files: FileOptions


def pool_for(ray: Any, files: FileOptions, options: ClusterOptions) -> Pool:
    """As many scorers as asked for, or one per GPU, or one per machine.

    Raises ClusterError when they do not fit into the cluster.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    engine = replace(files.engine, device=_device(files.engine.device, nodes))
    gpus = int(_on_gpu(engine.device))
    cpus = _cpus(engine.threads, options.workers, nodes, gpus)
    room = [_room(node, cpus, gpus) for node in nodes]
    workers = options.workers or sum(room)
    if not workers or workers > sum(room):
        each = f"{cpus} core{'' if cpus == 1 else 's'}{' and a GPU' if gpus else ''}"
        raise ClusterError(
            f"found room for {sum(room)} workers of {each}, expected room for {max(workers, 1)}; choose fewer "
            f"--workers or --threads{', or --device cpu' if gpus else ''}"
        )
    engine = replace(engine, threads=engine.threads if gpus else cpus)
    return Pool(workers=workers, cpus=cpus, gpus=gpus, files=replace(files, engine=engine))


def _device(device: str, nodes: Sequence[dict[str, float]]) -> str:
    """The device of the scorers: for `auto` GPUs, where the cluster has some. Ray chooses each scorer's GPU."""
    if ":" in device:
        raise OptionError(
            f"device is {device!r}, expected no number: on a cluster Ray chooses the GPU; give {device.split(':')[0]!r}"
        )
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
    """Cores per scorer: as many as threads; one beside a GPU; else the most with which all scorers fit.

    Without `workers` that is one scorer per machine.
    """
    if threads or gpus:
        return threads or 1
    cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    wanted = workers or len(cores)
    fitting = (n for n in range(max(cores, default=1), 0, -1) if sum(core // n for core in cores) >= wanted)
    return next(fitting, 1)


def _room(node: dict[str, float], cpus: int, gpus: int) -> int:
    return int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) // gpus if gpus else sys.maxsize))
