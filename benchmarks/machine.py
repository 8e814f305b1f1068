"""What a benchmark ran on: printed with every figure."""

import importlib.metadata
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

from rmexport.bench.machine import CLASS_FLAGS, describe_machine

PACKAGES = ("rmexport", "rmruntime", "onnxruntime", "openvino", "torch", "transformers", "numpy", "tokenizers")


def describe() -> dict[str, str]:
    """Machine, versions and the command that ran."""
    machine = describe_machine()
    facts = {
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "cpu": _cpu(machine),
        "processor class": machine["processor_class"],
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "python": platform.python_version(),
    }
    return facts | {name: _version(name) for name in PACKAGES}


def banner() -> str:
    """`describe` as text."""
    return "\n".join(f"# {key}: {value}" for key, value in describe().items())


def _cpu(machine: dict[str, Any]) -> str:
    known = [flag for flag in reversed(CLASS_FLAGS) if flag in machine["flags"]]
    return f"{machine['cpu']} ({', '.join(known)})"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
