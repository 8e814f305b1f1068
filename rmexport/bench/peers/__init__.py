"""What `rmexport bench` compares with, one file each, found by their NAME; a file here is named nowhere else.

Each runs in a process and, where the user says so, a Python of its own: rmexport.bench.worker.scorer has the contract.
"""

from functools import cache
from pathlib import Path
from typing import Any

from rmexport.bench.worker.scorer import PeerModule
from rmruntime.modules import discover, members


@cache
def peers() -> dict[str, PeerModule]:
    """Every peer module by NAME."""
    return {module.NAME: module for module in discover(__name__, members(PeerModule))}


def file_of(module: Any) -> Path:
    """The source of a peer module, which the worker reads."""
    return Path(module.__file__)
