"""The seam between scoring and engines: index arrays in, named fp32 arrays out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rmruntime.bundle import Bundle
from rmruntime.errors import OptionError
from rmruntime.manifest import Graph

Feeds = Mapping[str, NDArray[np.int64]]
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """`device` as the user said it; `threads` 0 lets the engine decide; `memory_limit` bytes it should stay under.

    `precision` "auto" is the engine's best that has no fewer mantissa bits than the bundle's dtype; otherwise that
    arithmetic or an error.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int = 0
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        if self.threads < 0:
            raise OptionError(f"threads is {self.threads}, expected a number of threads, or 0 for the engine's choice")
        if self.precision not in PRECISIONS:
            raise OptionError(f"precision is {self.precision!r}, expected one of {', '.join(PRECISIONS)}")


class Backend(Protocol):
    """A loaded graph. `precision` is the arithmetic that runs, `name` the engine; both are reported with scores."""

    name: str
    precision: str
    graph: Graph

    def run(self, feeds: Feeds) -> Outputs:
        """One pass. Raises BackendError with the engine's message when it fails."""
        ...

    def close(self) -> None:
        """Free the engine; further calls are an error."""
        ...


class BackendModule(Protocol):
    """A module of rmruntime.backends."""

    NAME: str
    DEVICES: tuple[str, ...]
    PRIORITY: int
    HAS_INDEX: bool
    PACKAGE: str
    EXTRA: str
    DIALECTS: tuple[str, ...]

    def compute_dtypes(self, bundle_dtype: str, precision: str) -> tuple[str, ...]:
        """Compute dtypes of the graphs that give this precision, best first; empty when it cannot."""
        ...

    def load(self, bundle: Bundle, graph: Graph, options: BackendOptions) -> Backend: ...


def engine_module(name: str) -> Any:
    """Import an engine's package, untyped as they all are."""
    import importlib

    return importlib.import_module(name)
