"""Modules that no code imports by name: those found in a package's folder, and those imported when first used.

A package with lazy names is imported in no time, so that a command handles Ctrl-C before its slow imports. For the same
reason this module imports nothing else of the project.
"""

from __future__ import annotations

import importlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from types import ModuleType
    from typing import Any, TypeVar

    T = TypeVar("T")
else:
    ModuleType = type(sys)


def discover(package: str, *contracts: Collection[str]) -> list[Any]:
    """The modules in the folder of `package` (families, backends and the like, one per file), sorted by name.

    Each must have every attribute that one of the `contracts` names. Raises ModuleError, which names the file and the
    attributes that it lacks.

    >>> import rmruntime.text.layouts
    >>> [module.LAYOUT.name for module in discover("rmruntime.text.layouts", ("LAYOUT",))][:2]
    ['chat', 'graded_turns']
    """
    import pkgutil

    names = [info.name for info in pkgutil.iter_modules(sys.modules[package].__path__) if is_choice(info.name)]
    found = [importlib.import_module(f"{package}.{name}") for name in names]
    for module in found:
        _check(module, package, contracts)
    return found


def discover_values(package: str, name: str, *kinds: type[T]) -> dict[ModuleType, T]:
    """The `name` of every module in the folder of `package`, by module in the order of their names: what each states.

    Raises ModuleError for a module that has no such value, one that is none of `kinds`, which are dataclasses, or one
    with a text where a tuple belongs.

    >>> import rmruntime.text.layouts
    >>> from rmruntime.text.layouts.base import Layout
    >>> [layout.name for layout in discover_values("rmruntime.text.layouts", "LAYOUT", Layout).values()][:2]
    ['chat', 'graded_turns']
    """
    found = {module: getattr(module, name) for module in discover(package, (name,))}
    for module, value in found.items():
        if not isinstance(value, kinds):
            from rmruntime.errors import ModuleError

            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ModuleError(
                f"{module.__file__}: found {name} = {value!r}, expected a {expected}, in which a module of {package} "
                "states what it is"
            )
        _check_tuples(module, value)
    return found


def by_name(package: str, found: Iterable[tuple[str, ModuleType, T]]) -> dict[str, T]:
    """The choices of `package` by name, from names, the modules that have them, and choices.

    Raises ModuleError for a name that two have, which names the file of each.

    >>> import rmruntime.text.layouts.chat as chat
    >>> list(by_name("rmruntime.text.layouts", [("chat", chat, chat.LAYOUT)]))
    ['chat']
    """
    choices: dict[str, T] = {}
    homes: dict[str, ModuleType] = {}
    for name, module, choice in found:
        if name in choices:
            from rmruntime.errors import ModuleError

            raise ModuleError(
                f"{module.__file__}: found the name {name!r}, which {homes[name].__file__} has too, expected one of "
                f"its own in {package}; give one of them another name"
            )
        choices[name], homes[name] = choice, module
    return choices


def is_choice(name: str) -> bool:
    """Whether the module `name` in such a folder is one of its choices: not a helper (`_name`), nor `base`.

    >>> is_choice("openvino"), is_choice("_cuda_memory"), is_choice("base")
    (True, False, False)
    """
    return not name.startswith("_") and name != "base"


def members(contract: type) -> tuple[str, ...]:
    """The names of the variables and functions that a module must have to be a `contract`, which is a Protocol.

    >>> from typing import Protocol
    >>> class Contract(Protocol):
    ...     NAME: str
    ...     def load(self) -> None: ...
    >>> members(Contract)
    ('NAME', 'load')
    """
    functions = [name for name, value in vars(contract).items() if callable(value) and not name.startswith("_")]
    return (*contract.__annotations__, *functions)


def _check(module: ModuleType, package: str, contracts: Collection[Collection[str]]) -> None:
    from rmruntime.errors import ModuleError

    lacks = min(([name for name in names if not hasattr(module, name)] for names in contracts), key=len)
    if lacks:
        raise ModuleError(
            f"{module.__file__}: found no {', '.join(lacks)}, which every module of {package} must have; add what "
            "is missing, or begin the file's name with an underscore if it is a helper"
        )


def _check_tuples(module: ModuleType, value: Any) -> None:
    """Raises ModuleError for `("llama")`, of which every letter would count as one."""
    from dataclasses import fields

    from rmruntime.errors import ModuleError

    for field in fields(value):
        found = getattr(value, field.name)
        if isinstance(found, str) and str(field.type).startswith("tuple"):
            raise ModuleError(
                f"{module.__file__}: found {field.name} = {found!r}, expected a tuple; write ({found!r},) for one"
            )


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package whose names are imported when first used; `homes` maps a name to its module."""
    module = sys.modules[package]

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        module.__dict__[name] = found
        return found

    module.__class__ = _Package
    return find


class _Package(ModuleType):
    """A package whose public names win over submodules of the same name, which importing them would bind instead."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in self.__dict__.get("__all__", ())):
            super().__setattr__(name, value)
