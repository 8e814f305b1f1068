"""Dialects, the forms that graphs are written in, one file each; found by their `Dialect` subclass."""

from functools import cache
from types import ModuleType

from rmexport.graph.dialect import Dialect
from rmruntime.bundle.manifest import Quantization
from rmruntime.errors import ModuleError
from rmruntime.modules import by_name, discover


@cache
def dialects() -> dict[str, type[Dialect]]:
    """Every dialect by its NAME. Raises ModuleError for a file that has none, or one that another has too."""
    found = ((dialect.NAME, module, dialect) for module in discover(__name__, ()) for dialect in _dialects_of(module))
    return by_name(__name__, found)


def _dialects_of(module: ModuleType) -> list[type[Dialect]]:
    own = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    found = [kind for kind in own if issubclass(kind, Dialect) and hasattr(kind, "NAME")]
    if not found:
        raise ModuleError(
            f"{module.__file__}: found no subclass of Dialect that has a NAME, which every module of {__name__} "
            "must have; add one, or begin the file's name with an underscore if it is a helper"
        )
    return found


def dialects_for(quantization: Quantization | None, *, causal: bool = True) -> list[type[Dialect]]:
    """The dialects that support weights of this quantization, and attention that is not causal: pages are."""
    found = [d for d in dialects().values() if quantization is None or quantization.scheme in d.SCHEMES]
    return [d for d in found if causal or not d.PAGE_SIZE]
