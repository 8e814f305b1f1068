"""Memory that this process can still take, in bytes: the kernel's estimate, or a control group's limit if lower."""

from collections.abc import Iterator
from pathlib import Path

UNLIMITED = 1 << 62  # bytes: stands for "not known, no limit"
# Advice in messages about a model that does not fit into a device's memory.
NARROWER = "narrower weights (export --dtype bf16, or --quantize int8 or int4)"
_GROUPS = Path("/sys/fs/cgroup")


STAGES_SHARE = 0.5  # the share of the available memory for weights, where stages run in turn


def stage_share(available: int) -> int:
    """Bytes of weights that the stage memory "auto" allows, where `available` bytes of memory are free: half of them.

    >>> stage_share(16_000_000_000)
    8000000000
    """
    return int(STAGES_SHARE * available)


CACHE_SHARE = 0.25  # of the memory that a loaded model leaves, for the keys and values of a prefix cache
CACHE_LIMIT = 4_000_000_000


def cache_share(available: int) -> int:
    """Bytes that a prefix cache of "auto" may hold.

    >>> cache_share(8_000_000_000), cache_share(64_000_000_000)
    (2000000000, 4000000000)
    """
    return min(CACHE_LIMIT, int(CACHE_SHARE * available))


def available_memory() -> int:
    """Available memory in bytes; UNLIMITED where the system does not report it.

    >>> available_memory() > 0
    True
    """
    return min([_meminfo(), *_group_limits()])


def _meminfo() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux: no estimate, no limit
    return UNLIMITED


def _group_limits() -> Iterator[int]:
    """Bytes that each limit above this process leaves. Cached file pages count as used there but can be freed."""
    for folder, limit, used, files in _group_files():
        try:
            left = int((folder / limit).read_text()) - int((folder / used).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield max(0, left + int(stat.get(files, 0)))
        except (OSError, ValueError):
            continue  # no such file, or "max": no limit


def _group_files() -> Iterator[tuple[Path, str, str, str]]:
    """Folder, limit file, usage file and the name of file-backed pages in memory.stat, for versions 1 and 2."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            for folder in (_GROUPS / name.lstrip("/"), _GROUPS):
                yield folder, "memory.max", "memory.current", "file"
        elif "memory" in controllers.split(","):
            for folder in (_GROUPS / "memory" / name.lstrip("/"), _GROUPS / "memory"):
                yield folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache"
