"""Protocols: what one kind of client asks and expects. One file each; `base` describes how they plug in.

A protocol's module defines PROTOCOL, a `Protocol` of rmruntime.serve.protocols.base. Nothing else names the module.
"""

from collections.abc import Mapping
from functools import cache

from rmruntime.modules import by_name, discover_values
from rmruntime.serve.protocols.base import Protocol


@cache
def find_protocols() -> Mapping[str, Protocol]:
    """All protocols by name, in the order of their files' names.

    >>> "rewards" in find_protocols()
    True
    """
    found = discover_values(__name__, "PROTOCOL", Protocol).items()
    return by_name(__name__, ((protocol.name, module, protocol) for module, protocol in found))
