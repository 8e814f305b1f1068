"""What `rmexport bench` compares with, one file each, found by their NAME; a file here is named nowhere else.

Each runs in a process and, where the user says so, a Python of its own: rmexport.bench.worker.scorer has the contract.
"""

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from rmexport.bench.worker.scorer import PeerModule


@cache
def peers() -> dict[str, PeerModule]:
    """Every peer module by NAME."""
    modules: list[Any] = [
        importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
        if not info.name.startswith("_")
    ]
    return {module.NAME: module for module in modules}


def file_of(module: Any) -> Path:
    """The source of a peer module, which the worker reads."""
    return Path(module.__file__)
