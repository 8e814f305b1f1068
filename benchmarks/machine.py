"""What a benchmark ran on: printed with every figure."""

import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path

PACKAGES = ("rmexport", "rmruntime", "onnxruntime", "openvino", "torch", "transformers", "numpy", "tokenizers")


def describe() -> dict[str, str]:
    """Machine, versions and the command that ran."""
    facts = {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "python": platform.python_version(),
    }
    return facts | {name: _version(name) for name in PACKAGES}


def banner() -> str:
    """`describe` as text."""
    return "\n".join(f"# {key}: {value}" for key, value in describe().items())


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    extra = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{name} ({', '.join(extra)})"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
