"""Checks, before a compilation of minutes, that this machine has the memory and disk space that it takes."""

import shutil
from pathlib import Path

from rmexport.compile.device import TargetDevice
from rmexport.compile.library import Library
from rmexport.errors import NotCompilable
from rmruntime.devices.cuda_driver import free_memory
from rmruntime.devices.host_memory import available_memory

# Measured with tensorrt_rtx 1.7.1 on graphs of 80 to 280 MB: peak memory rises by 2.5 bytes per byte of weights when
# the engine is streamed to its file.
MEMORY_FACTOR = 2.5
FIXED_MEMORY = 1 << 30
KERNELS = 128 << 20  # an engine's bytes beyond its weights; 10 to 40 MB were measured
DEVICE_FACTOR = 1.1


def check_room(weights: int, folder: Path, library: Library, device: TargetDevice) -> None:
    """Raises NotCompilable, which states how much is needed, where memory, disk or the GPU's memory is too small.

    `weights` is their size in bytes, `folder` the one that the engine is written to.
    """
    memory = int(MEMORY_FACTOR * weights) + FIXED_MEMORY
    _require("memory", memory, available_memory(), "compile on a larger machine with the same GPU and copy `engines/`")
    disk = shutil.disk_usage(_existing(folder)).free
    _require(f"free space in {folder}", weights + KERNELS, disk, "make room: an engine has its own copy of the weights")
    if library.needs_gpu:
        free = free_memory(0)
        advice = "stop other processes on the GPU"
        _require(f"free memory of {device.gpu}", int(DEVICE_FACTOR * weights), free, advice)


def _require(what: str, needed: int, found: int, advice: str) -> None:
    if found < needed:
        raise NotCompilable(
            f"compiling takes about {needed / 1e9:.1f} GB of {what}, found {found / 1e9:.1f} GB; {advice}"
        )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
