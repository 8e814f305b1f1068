"""Dialects, the forms that graphs are written in, one file each; found by their `Dialect` subclass."""

import importlib
import pkgutil
from functools import cache

from rmexport.graph.dialect import Dialect
from rmruntime.bundle.manifest import Quantization


@cache
def dialects() -> dict[str, type[Dialect]]:
    """Every dialect by its NAME."""
    found: dict[str, type[Dialect]] = {}
    for info in pkgutil.iter_modules(__path__):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Dialect) and value.__module__ == module.__name__:
                found[value.NAME] = value
    return found


def dialects_for(quantization: Quantization | None) -> list[type[Dialect]]:
    """The dialects that support weights of this quantization."""
    return [d for d in dialects().values() if quantization is None or quantization.scheme in d.SCHEMES]
