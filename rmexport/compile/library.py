"""The compiler's Python package: tensorrt, or tensorrt_rtx, which has the same interface."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rmexport.compile.options import LIBRARIES, CompileOptions
from rmexport.errors import CompilerNotInstalled

NATIVE, RTX = LIBRARIES
EXTRAS = {NATIVE: "tensorrt", RTX: "tensorrt-rtx"}
# Parsers read RMSNormalization and RotaryEmbedding since 10.15; of tensorrt_rtx, 1.7 is the oldest that was tried.
LEAST_VERSIONS = {NATIVE: (10, 15), RTX: (1, 7)}


@dataclass(frozen=True)
class Library:
    """An imported package, `module`, under its import name."""

    name: str
    version: str
    module: Any

    @property
    def needs_gpu(self) -> bool:
        """Whether it compiles only on the GPU that it compiles for: tensorrt times kernels there, tensorrt_rtx not."""
        return self.name == NATIVE


def find_library(options: CompileOptions) -> Library:
    """The package that `options` ask for, imported.

    Raises CompilerNotInstalled, which says what to install, where it is missing, broken or too old.
    """
    names = _candidates(options)
    name = next((name for name in names if importlib.util.find_spec(name) is not None), None)
    if name is None:
        extras = " or ".join(f"pip install 'rmexport[{EXTRAS[name]}]'" for name in names)
        raise CompilerNotInstalled(f"{' or '.join(names)} is not installed, which compiles engines: {extras}")
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise CompilerNotInstalled(
            f"{name} is installed and cannot be imported ({error}): pip install 'rmexport[{EXTRAS[name]}]'"
        ) from error
    library = Library(name, str(module.__version__), module)
    _check_version(library)
    return library


def _candidates(options: CompileOptions) -> Sequence[str]:
    if options.library != "auto":
        return (options.library,)
    return (RTX,) if options.compute_capability is not None else LIBRARIES


def _check_version(library: Library) -> None:
    least = LEAST_VERSIONS[library.name]
    found = tuple(int(part) for part in library.version.split(".")[:2])
    if found < least:
        raise CompilerNotInstalled(
            f"{library.name} {library.version} is installed, expected {'.'.join(map(str, least))} or newer: "
            f"pip install --upgrade 'rmexport[{EXTRAS[library.name]}]'"
        )
