"""The interface of engines: index arrays in, named fp32 arrays out."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph
from rmruntime.engine_choice import EngineFacts
from rmruntime.errors import BackendError, EngineNotInstalled
from rmruntime.options import EngineOptions

# Inputs by name: index arrays, and for a stage the hidden states, in the form in which the stage before returned them.
Feeds = Mapping[str, Any]
# Outputs by name: fp32 arrays, or the hidden states of a stage, in a form that only the same engine's next stage reads.
Outputs = Mapping[str, Any]
KeyMove = tuple[Any, int, Any, int, int]  # a tensor, the first token there, the source, the first token there, how many


class Backend(Protocol):
    """A loaded graph. `precision` is the arithmetic that runs, `name` the engine; both are reported with scores.

    `batch_tokens` is the recommended number of tokens in a pass, for users who do not set one.
    """

    name: str
    precision: str
    graph: Graph
    batch_tokens: int

    def run(self, feeds: Feeds) -> Outputs:
        """One pass; inputs that the graph does not have are ignored.

        Raises DeviceMemoryError or PassTooLarge where a smaller pass may succeed, and BackendError with the engine's
        message for other failures.
        """
        ...

    def close(self) -> None:
        """Free the engine; further calls are an error."""
        ...


class KeyMemory(Protocol):
    """Memory of a device for keys and values between passes; an engine that has it names it `key_memory`.

    A token takes `token_bytes` in the engine's layers, and `cache_tokens` tokens of earlier passes may be kept. By
    pages there are `pages` of them, which a pass writes and reads by number. By rows pages are 0, and there are tensors
    [tokens, features] for the inputs `names`: new ones, and the outputs of passes.
    """

    token_bytes: int
    cache_tokens: int
    pages: int
    names: tuple[str, ...]

    def empty(self, tokens: int) -> Any:
        """A tensor of that many tokens, of any content. Raises DeviceMemoryError where memory is short."""
        ...

    def zero(self, tensors: Sequence[Any]) -> None:
        """Fill tensors with zeros, before this returns."""
        ...

    def copy(self, moves: Sequence[KeyMove]) -> None:
        """Copy tokens, before this returns."""
        ...


def key_memory_of(backend: Backend) -> list[KeyMemory]:
    """The engine's, if it keeps keys and values on its device."""
    memory: KeyMemory | None = getattr(backend, "key_memory", None)
    return [] if memory is None else [memory]


class BackendModule(Protocol):
    """What a module of rmruntime.backends must have; the package's docstring explains each."""

    NAME: str
    DEVICES: tuple[str, ...]
    PRIORITY: int
    HAS_INDEX: bool
    PACKAGE: str
    EXTRA: str
    DIALECTS: tuple[str, ...]
    RUNS_STAGES: bool

    def compute_dtypes(self, bundle_dtype: str, precision: str) -> tuple[str, ...]:
        """Compute dtypes of the graphs with which it has this precision, best first; empty when it has none."""
        ...

    def obstacle(self, bundle: Bundle, options: EngineOptions) -> BackendError | None:
        """The reason why this engine cannot run the bundle here, None where it can; loads no weights."""
        ...

    def facts(self, bundle: Bundle, graph: Graph, options: EngineOptions) -> EngineFacts:
        """How it would run a graph for which there is no obstacle; fast, and loads no weights."""
        ...

    def load(self, bundle: Bundle, graph: Graph, options: EngineOptions) -> Backend:
        """The graph, or a stage's graph from `Graph.of_stage`, ready to run."""
        ...


CPU_BATCH_TOKENS = 4096


def package_obstacle(package: str, extra: str) -> EngineNotInstalled | None:
    """The error of a package that is not installed, which names the extra to install; None where it is.

    >>> package_obstacle("numpy", "cpu") is None
    True
    """
    if importlib.util.find_spec(package) is not None:
        return None
    return EngineNotInstalled(
        f"no engine is installed that can run this bundle: pip install 'rmruntime[{extra}]' ({package})"
    )


def engine_module(name: str) -> Any:
    """Import an engine's package; returns it as Any, because these packages have no types.

    >>> engine_module("numpy").__name__
    'numpy'
    """
    import importlib

    return importlib.import_module(name)
