"""The seam between scoring and engines: index arrays in, named fp32 arrays out."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph
from rmruntime.engine_choice import EngineFacts
from rmruntime.errors import BackendError, EngineNotInstalled
from rmruntime.option_checks import BYTES, THREADS, check_fields

Precision = Literal["auto", "fp32", "bf16", "fp16"]
PRECISIONS = get_args(Precision)
# Index arrays; of a stage also the hidden states, in whatever form the stage before it gave them.
Feeds = Mapping[str, Any]
# fp32 arrays; of a stage that is not the last, hidden states that only the same engine's next stage need understand.
Outputs = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """`device` as the user said it; `threads` 0 lets the engine decide; `memory_limit` bytes it should stay under.

    Several devices, with commas between, run one stage after another. `stage_memory`, bytes or "auto" (half of the
    memory there is), has one device run the stages in turn, holding no more weights than that.
    `precision` "auto" is the engine's best that has no fewer mantissa bits than the bundle's dtype; otherwise that
    arithmetic or an error. `dialect` names the graph to run, where an engine reads several; None: the engine's best.
    `check` "full" has compiled engines hashed.
    """

    device: str = "auto"
    precision: Precision = "auto"
    dialect: str | None = None
    check: Literal["fast", "full"] = "fast"
    threads: int = 0
    memory_limit: int | None = None
    stage_memory: int | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is none of the choices, of another type, or out of range."""
        limits = {"threads": THREADS, "memory_limit": BYTES._replace(least=0), "stage_memory": BYTES}
        check_fields(self, limits)

    @property
    def devices(self) -> tuple[str, ...]:
        """Each of the devices."""
        return tuple(part.strip() for part in self.device.split(","))

    @property
    def device_name(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]

    @property
    def device_index(self) -> int:
        """The number behind the colon, 0 without one."""
        number = self.device.partition(":")[2]
        return int(number) if is_index(number) else 0


def is_index(text: str) -> bool:
    """Whether `text` is the number of a device: decimal, and none that no machine has."""
    return text.isdecimal() and len(text) < 6


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

    def obstacle(self, bundle: Bundle, options: BackendOptions) -> BackendError | None:
        """Why this engine cannot run the bundle here, None where nothing is in its way; loads no weights."""
        ...

    def facts(self, bundle: Bundle, graph: Graph, options: BackendOptions) -> EngineFacts:
        """What it would do with a graph that nothing keeps it from running; cheap, and loads no weights."""
        ...

    def load(self, bundle: Bundle, graph: Graph, options: BackendOptions) -> Backend:
        """The graph, or the stage that `Graph.of_stage` made of it, ready to run."""
        ...


CPU_BATCH_TOKENS = 4096


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
