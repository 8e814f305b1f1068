"""Sizes as people write them: 6GB, 512MiB, 1.5e9."""

import re

from rmruntime.errors import OptionError

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{prefix}B": 1000**i for i, prefix in enumerate("KMGT", 1)}
_UNITS |= {f"{prefix}IB": 1024**i for i, prefix in enumerate("KMGT", 1)}


def parse_bytes(name: str, text: str) -> int:
    """A number of bytes, at least 1; `name` is the option's. Raises OptionError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:[eE]\d+)?)\s*([A-Za-z]*)\s*", text)
    factor = _UNITS.get(found[2].upper()) if found else None
    size = int(float(found[1]) * factor) if found and factor else 0
    if size < 1:
        raise OptionError(f"{name} is {text!r}, expected a size such as 6GB, 512MiB or 4000000000")
    return size
