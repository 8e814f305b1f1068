"""Engines, one file each, found by their NAME; no other code names a file in this folder.

A backend module has NAME, DEVICES (the general names of `device=` that include it), HAS_INDEX (whether it takes a
device number, as in `cuda:1`), PRIORITY (higher is listed first, and preferred where nothing else decides), PACKAGE and
EXTRA (what to import, what to install), DIALECTS (graphs it reads, best first), RUNS_STAGES (whether it runs stages of
a graph), `compute_dtypes(bundle_dtype, precision)` (which of their compute dtypes), `obstacle(bundle, options)` (why it
cannot run here), `facts(bundle, graph, options)` (how it would run a graph) and `load(bundle, graph, options)`; only
these four import the engine. `rmruntime.engine_choice` has the rule by which one of several is chosen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from rmruntime.backends.base import Backend, BackendModule
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph
from rmruntime.devices.host_memory import available_memory
from rmruntime.engine_choice import NAMED, Candidate, EngineFacts, preferred
from rmruntime.errors import BackendError, EngineNotInstalled, EngineUnusable
from rmruntime.modules import by_name, discover, members
from rmruntime.options import EngineOptions, is_index


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """The engine for a bundle and the graph that it runs; `reason`, why it was chosen, is a clause after "because"."""

    module: BackendModule
    graph: Graph
    facts: EngineFacts
    reason: str

    def pinned(self, options: EngineOptions) -> EngineOptions:
        """The options with this engine's name as device, in place of a general name such as "cpu"."""
        _, colon, index = options.device.partition(":")
        return replace(options, device=f"{self.module.NAME}{colon}{index}")


@cache
def backends() -> dict[str, BackendModule]:
    """Every backend module by NAME, the one with the highest PRIORITY first.

    >>> list(backends())[-1], backends()["openvino"].DEVICES
    ('ort-cpu', ('cpu',))
    """
    modules = sorted(discover(__name__, members(BackendModule)), key=lambda module: -module.PRIORITY)
    return by_name(__name__, ((module.NAME, module, module) for module in modules))


def load_backend(bundle: Bundle, options: EngineOptions) -> Backend:
    """The engine for `options.device`, loaded with the bundle's graph for it.

    Raises EngineNotInstalled, which names the extra to install, and EngineUnusable or BackendError when no backend or
    no graph fits. A backend that was asked for by name is never replaced by another.
    """
    choice = choose_engine(bundle, options)
    return choice.module.load(bundle, choice.graph, options)


def choose_backend(bundle: Bundle, options: EngineOptions, *, staged: bool = False) -> tuple[BackendModule, Graph]:
    """The engine and the graph of `choose_engine`."""
    choice = choose_engine(bundle, options, staged=staged)
    return choice.module, choice.graph


def choose_engine(bundle: Bundle, options: EngineOptions, *, staged: bool = False) -> EngineChoice:
    """The best of the backends that `options.device` includes and that can run the bundle here; loads no weights.

    `staged`: only backends that run stages. Raises as `load_backend` does.
    """
    fitting = _fitting(options.device_name)
    _check_index(fitting, options)
    if staged:
        fitting = _running_stages(fitting, options)
    readable = [m for m in fitting if _readable(bundle, m, options)]
    if not readable:
        raise BackendError(_unreadable(bundle, fitting, options))
    obstacles = {module.NAME: module.obstacle(bundle, options) for module in readable}
    usable = [module for module in readable if obstacles[module.NAME] is None]
    if not usable:
        raise _joined(readable, [obstacle for obstacle in obstacles.values() if obstacle is not None])
    missing = [m.PACKAGE for m in readable if isinstance(obstacles[m.NAME], EngineNotInstalled)]
    return _preferred(bundle, usable, options, missing)


def _preferred(
    bundle: Bundle, usable: Sequence[BackendModule], options: EngineOptions, missing: Sequence[str]
) -> EngineChoice:
    """The choice among the backends that have a graph of the wanted precision, by name or by the rule."""
    able = [module for module in usable if _graph_keys(bundle, module, options)]
    if not able:
        raise BackendError(_imprecise(bundle, usable[0], options))
    graphs = {module.NAME: _graph_for(bundle, module, options) for module in able}
    facts = {module.NAME: module.facts(bundle, graphs[module.NAME], options) for module in able}
    if options.device_name in facts:
        name, reason = options.device_name, NAMED
    else:
        free = options.memory_limit if options.memory_limit is not None else available_memory()
        found = preferred([Candidate(name=n, facts=f) for n, f in facts.items()], free, list(dict.fromkeys(missing)))
        name, reason = found.name, found.reason
    return EngineChoice(module=backends()[name], graph=graphs[name], facts=facts[name], reason=reason)


def _fitting(device: str) -> list[BackendModule]:
    known = backends()
    if device in known:
        return [known[device]]
    fitting = [m for m in known.values() if device == "auto" or device in m.DEVICES]
    if not fitting:
        names = sorted({"auto", *known, *(d for m in known.values() for d in m.DEVICES)})
        raise BackendError(f"unknown device {device!r}; expected one of {', '.join(names)}")
    return fitting


def _running_stages(fitting: list[BackendModule], options: EngineOptions) -> list[BackendModule]:
    able = [module for module in fitting if module.RUNS_STAGES]
    if not able:
        names = " or ".join(name for name, module in backends().items() if module.RUNS_STAGES)
        raise BackendError(f"device {options.device!r}: {fitting[0].NAME} runs no stages; choose {names}")
    return able


def _check_index(fitting: list[BackendModule], options: EngineOptions) -> None:
    device, colon, index = options.device.partition(":")
    if not colon:
        return
    numbered = device != "auto" and any(m.HAS_INDEX for m in fitting)
    if not (numbered and is_index(index)):
        name = fitting[0].NAME if len(fitting) == 1 else device
        expected = f"{device!r}, or {device + ':0'!r} and so on" if numbered else repr(device)
        raise BackendError(f"device {options.device!r}: {name} takes no device number {index!r}; give {expected}")


def _readable(bundle: Bundle, module: BackendModule, options: EngineOptions) -> bool:
    return bool(_graphs(bundle, module, options))


def _graphs(bundle: Bundle, module: BackendModule, options: EngineOptions) -> list[Graph]:
    """The bundle's graphs that the engine may run."""
    reads = [d for d in module.DIALECTS if options.dialect in (None, d)]
    return [graph for graph in bundle.manifest.graphs if graph.dialect in reads]


def _unreadable(bundle: Bundle, fitting: Iterable[BackendModule], options: EngineOptions) -> str:
    have = ", ".join(sorted({g.dialect for g in bundle.manifest.graphs}))
    reads = " or ".join(f"{m.NAME}, which reads {', '.join(m.DIALECTS)} graphs" for m in fitting)
    asked = "" if options.dialect is None else f" with dialect {options.dialect!r}"
    return f"device {options.device!r}{asked} runs {reads}; this bundle has: {have}. {_way_out(bundle)}"


def _way_out(bundle: Bundle) -> str:
    quantization = bundle.manifest.quantization
    if quantization is None:
        return "Export it again with this version of rmexport"
    return (
        f"Its weights are {quantization.scheme}, which not every engine computes with: choose another device, or "
        "export it with another --quantize"
    )


def _graph_for(bundle: Bundle, module: BackendModule, options: EngineOptions) -> Graph:
    """The best of the backend's graphs that have the wanted precision; there must be one."""
    known = {(graph.dialect, graph.compute_dtype): graph for graph in _graphs(bundle, module, options)}
    return known[_graph_keys(bundle, module, options)[0]]


def _graph_keys(bundle: Bundle, module: BackendModule, options: EngineOptions) -> list[tuple[str, str]]:
    """Dialect and compute dtype of the backend's graphs that have the wanted precision, best first."""
    known = {(graph.dialect, graph.compute_dtype) for graph in _graphs(bundle, module, options)}
    wanted = module.compute_dtypes(bundle.manifest.dtype, options.precision)
    return [key for key in ((dialect, dtype) for dialect in module.DIALECTS for dtype in wanted) if key in known]


def _imprecise(bundle: Bundle, module: BackendModule, options: EngineOptions) -> str:
    have = ", ".join(sorted({graph.compute_dtype for graph in _graphs(bundle, module, options)}))
    return (
        f"{module.NAME} cannot compute this {bundle.manifest.dtype} bundle with precision {options.precision!r} on "
        f"this machine; its graphs compute in {have}. Leave the precision to 'auto', or choose another device"
    )


def _joined(modules: list[BackendModule], obstacles: list[BackendError]) -> BackendError:
    """One error for all obstacles: what to install, and why installed engines cannot run."""
    if len(obstacles) == 1:
        return obstacles[0]
    missing: list[BackendModule] = []
    others: dict[str, list[str]] = {}  # several backends may lack the same driver
    for module, obstacle in zip(modules, obstacles, strict=True):
        if isinstance(obstacle, EngineNotInstalled):
            missing.append(module)
        else:
            others.setdefault(str(obstacle), []).append(module.NAME)
    unusable = "; ".join(f"{' and '.join(names)}: {why}" for why, names in others.items())
    if not missing:
        return EngineUnusable(unusable)
    ways = " or ".join(f"pip install 'rmruntime[{m.EXTRA}]' ({m.PACKAGE})" for m in missing)
    return EngineNotInstalled(
        "; ".join(filter(None, (f"no engine is installed that can run this bundle: {ways}", unusable)))
    )
