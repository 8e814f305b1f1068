"""The seam between scoring and engines: index arrays in, named fp32 arrays out."""

import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol

from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_names import past_names
from rmruntime.bundle.manifest import Graph
from rmruntime.engine_choice import EngineFacts
from rmruntime.errors import BackendError, EngineNotInstalled
from rmruntime.options import EngineOptions

# Index arrays; of a stage also the hidden states, in whatever form the stage before it gave them.
Feeds = Mapping[str, Any]
# fp32 arrays; of a stage that is not the last, hidden states that only the same engine's next stage need understand.
Outputs = Mapping[str, Any]


class Backend(Protocol):
    """A loaded graph. `precision` is the arithmetic that runs, `name` the engine; both are reported with scores.

    `batch_tokens` is how many tokens a pass had best compute, where the user does not say.
    """

    name: str
    precision: str
    graph: Graph
    batch_tokens: int

    def run(self, feeds: Feeds) -> Outputs:
        """One pass; inputs that the graph does not have are left alone.

        Raises DeviceMemoryError or PassTooLarge where a smaller pass may succeed, and else BackendError with the
        engine's message when it fails.
        """
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
    RUNS_STAGES: bool

    def compute_dtypes(self, bundle_dtype: str, precision: str) -> tuple[str, ...]:
        """Compute dtypes of the graphs that give this precision, best first; empty when it cannot."""
        ...

    def obstacle(self, bundle: Bundle, options: EngineOptions) -> BackendError | None:
        """Why this engine cannot run the bundle here, None where nothing is in its way; loads no weights."""
        ...

    def facts(self, bundle: Bundle, graph: Graph, options: EngineOptions) -> EngineFacts:
        """What it would do with a graph that nothing keeps it from running; cheap, and loads no weights."""
        ...

    def load(self, bundle: Bundle, graph: Graph, options: EngineOptions) -> Backend:
        """The graph, or the stage that `Graph.of_stage` made of it, ready to run."""
        ...


CPU_BATCH_TOKENS = 4096


def past_outputs(bundle: Bundle, graph: Graph) -> list[str]:
    """The keys and values that a graph returns, none without a past."""
    layers = [past_names(layer) for layer in range(bundle.manifest.backbone.num_layers)] if graph.takes_past else []
    return [name for layer in layers for name in (layer.keys_out, layer.values_out)]


def package_obstacle(package: str, extra: str) -> EngineNotInstalled | None:
    """The error that names the extra, where the package is not installed."""
    if importlib.util.find_spec(package) is not None:
        return None
    return EngineNotInstalled(
        f"no engine is installed that can run this bundle: pip install 'rmruntime[{extra}]' ({package})"
    )


def engine_module(name: str) -> Any:
    """Import an engine's package, untyped as they all are."""
    import importlib

    return importlib.import_module(name)
