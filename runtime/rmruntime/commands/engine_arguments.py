"""The arguments of commands that load an engine: added to a parser, and read back as one EngineOptions."""

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, Literal

from rmruntime.errors import OptionError
from rmruntime.options import PRECISIONS, EngineOptions, parse_bytes

_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "device": {
        "default": "auto",
        "help": "auto, cpu, cuda, cuda:1, or a backend's name (default: auto); several, as in cuda:0,cuda:1, share the "
        "stages of a bundle that was exported with --stages",
    },
    "stage_memory": {
        "help": "run the bundle's stages in turn on one device, with at most this size of weights loaded at a time, "
        "such as 6GB, or auto for half of the available memory (default: load the whole model)",
    },
    "prefix_cache": {
        "default": "off",
        "help": "memory for what earlier passes computed, so that a beginning is computed once: a size such as 2GB, "
        "auto for a quarter of what is left, at most 4 GB, or off (default: off)",
    },
    "dialect": {"help": "the graph to run, where the engine reads several (default: its best)"},
    "precision": {
        "choices": PRECISIONS,
        "default": "auto",
        "help": "the engine's arithmetic (default: auto, its fastest that is as precise as the bundle's dtype)",
    },
    "threads": {"type": int, "default": 0, "help": "threads of the engine (default: 0, the engine decides)"},
    "check": {
        "choices": ("fast", "full"),
        "default": "fast",
        "help": "how to check the bundle's files: full also hashes the weights (default: fast)",
    },
}


def add_engine_arguments(parser: argparse.ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Add an argument for each engine option that commands have, except for the options in `without`.

    >>> parser = argparse.ArgumentParser()
    >>> add_engine_arguments(parser, without=("check",))
    >>> engine_options(parser.parse_args(["--threads", "4", "--stage-memory", "2GB"])).stage_memory
    2000000000
    """
    for name, argument in _ARGUMENTS.items():
        if name not in without:
            parser.add_argument("--" + name.replace("_", "-"), **argument)


def engine_options(arguments: argparse.Namespace) -> EngineOptions:
    """The engine options that parsed arguments have, the others at their defaults. Raises OptionError.

    >>> engine_options(argparse.Namespace(device="cpu", threads=4)).device
    'cpu'
    """
    names = [field.name for field in fields(EngineOptions) if hasattr(arguments, field.name)]
    return EngineOptions(**{name: _READ.get(name, _as_given)(getattr(arguments, name)) for name in names})


def _stage_memory(text: str | None) -> int | Literal["auto"] | None:
    if text is None or text == "auto":
        return "auto" if text else None
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise OptionError(f"stage memory: {error}") from error


def _prefix_cache(text: str) -> int | Literal["auto", "off"]:
    if text in ("auto", "off"):
        return "auto" if text == "auto" else "off"
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise OptionError(f"prefix cache: {error}") from error


def _as_given(value: Any) -> Any:
    return value


_READ: Mapping[str, Callable[[Any], Any]] = {"stage_memory": _stage_memory, "prefix_cache": _prefix_cache}
