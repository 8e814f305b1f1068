"""Names of a package that are imported when they are first used, so that importing the package takes no time.

A command can then heed signals before what it needs is imported.
"""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def lazy_names(package: ModuleType, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package; `homes` says in which of its modules a name is."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package.__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{package.__name__}.{homes[name]}"), name)
        package.__dict__[name] = found
        return found

    package.__class__ = _Package
    return find


class _Package(ModuleType):
    """Importing a module binds it in its package, over what the package itself has under that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in self.__dict__.get("__all__", ())):
            super().__setattr__(name, value)
