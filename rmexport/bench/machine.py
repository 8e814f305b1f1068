"""The machine that a benchmark runs on."""

import os
import platform
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

from rmexport.verify.processor import read_processor

FLAGS = ("avx", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
# The instructions that products of matrices are made of, the fastest first: Linux's name of each, and the class's.
CLASS_FLAGS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "avx512f": "AVX-512", "avx2": "AVX2"}
NOT_RECORDED = "not recorded"


def processor_class(flags: Collection[str]) -> str:
    """The class of a processor with these flags: figures of two classes are not comparable.

    "not recorded" where no flag says, as on other makers' processors.

    >>> processor_class(["avx2", "avx512f", "avx512_bf16"])
    'AVX-512 BF16'
    """
    return next((name for flag, name in CLASS_FLAGS.items() if flag in flags), NOT_RECORDED)


def describe_machine() -> dict[str, Any]:
    """The report's record of the machine: processor and its class, memory, system, load before the
    run, and GPUs from nvidia-smi.

    >>> sorted(describe_machine())[:3]
    ['cores', 'cpu', 'flags']
    """
    processor = read_processor()
    return {
        "cpu": processor.model,
        "processor_class": processor_class(processor.flags),
        "flags": [flag for flag in FLAGS if flag in processor.flags],
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "numa_nodes": len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) or 1,
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version,power.limit", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    return found.stdout.strip().splitlines() if found.returncode == 0 else []
