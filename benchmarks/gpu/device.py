"""The GPU as the parent process sees it, without torch: through the driver and nvidia-smi."""

import importlib.metadata
import subprocess
from typing import Any

from machine import describe

from rmexport.bench.machine import describe_machine
from rmruntime.devices.cuda_driver import driver_version, find_devices

PACKAGES = ("onnxruntime-gpu", "tensorrt", "tensorrt_rtx", "flash-attn", "vllm", "nvidia-cudnn-cu13", "nvidia-cublas")


def facts(*, gpu: bool) -> dict[str, Any]:
    """Machine, GPU and versions. Raises EngineUnusable where a GPU is asked for and there is none."""
    known: dict[str, Any] = describe() | {name: version for name in PACKAGES if (version := _version(name))}
    if gpu:
        known["gpus"] = [str(device) for device in find_devices()]
        known["driver"] = ".".join(map(str, driver_version()))
    return known | {"nvidia-smi": describe_machine()["gpus"]}


def used_memory() -> int | None:
    """Bytes in use on the first GPU, by all processes; None without nvidia-smi."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return int(found.split()[0]) << 20


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
