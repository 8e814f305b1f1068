"""The contestants of `rmexport bench`, one file each, found by their NAME; no other code names a file in this folder.

Each runs in a process of its own and, where the user gives one, in another Python. rmexport.bench.worker.scorer
defines what a module must have.
"""

from functools import cache
from pathlib import Path
from typing import Any

from rmexport.bench.worker.scorer import PeerModule
from rmruntime.modules import by_name, discover, members


@cache
def peers() -> dict[str, PeerModule]:
    """Every peer module by NAME.

    >>> sorted(peers())[:2]
    ['bundle', 'optimum-intel']
    """
    return by_name(__name__, ((module.NAME, module, module) for module in discover(__name__, members(PeerModule))))


def file_of(module: Any) -> Path:
    """The file of a peer module, which the contestant's process imports.

    >>> file_of(peers()["bundle"]).name
    'bundle.py'
    """
    return Path(module.__file__)
