"""Engines, one file each, found by their NAME; a file here is named nowhere else.

A backend module has NAME, DEVICES (names that `device=` may say for it), HAS_INDEX (whether `device:N` means anything),
PRIORITY (higher is preferred where several can run), PACKAGE and EXTRA (what to import, what to install), DIALECTS
(graphs it reads, best first), RUNS_STAGES (whether it runs a graph's stages too),
`compute_dtypes(bundle_dtype, precision)` (which of their arithmetics), `obstacle(bundle, options)` (why it cannot run
here) and `load(bundle, graph, options)`; only these three import the engine.
"""

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache
from typing import Any

from rmruntime.backends.base import Backend, BackendModule, BackendOptions, is_index
from rmruntime.bundle import Bundle
from rmruntime.errors import BackendError, EngineNotInstalled, EngineUnusable
from rmruntime.manifest import Graph


@cache
def backends() -> dict[str, BackendModule]:
    """Every backend module by NAME, the preferred first."""
    modules: list[Any] = []
    for info in pkgutil.iter_modules(__path__):
        if info.name != "base":
            modules.append(importlib.import_module(f"{__name__}.{info.name}"))
    return {m.NAME: m for m in sorted(modules, key=lambda m: -m.PRIORITY)}


def load_backend(bundle: Bundle, options: BackendOptions) -> Backend:
    """The engine for `options.device`, loaded with the bundle's graph for it.

    Raises EngineNotInstalled naming the extra, EngineUnusable or BackendError when no backend or no graph fits. Never
    falls back from a backend that was asked for.
    """
    module, graph = choose_backend(bundle, options)
    return module.load(bundle, graph, options)


def choose_backend(bundle: Bundle, options: BackendOptions, *, staged: bool = False) -> tuple[BackendModule, Graph]:
    """The preferred of the backends that the device names, which nothing keeps from running, and its graph.

    `staged`: only backends that run stages. Raises as `load_backend` does.
    """
    module = _choose(bundle, options, staged)
    return module, _graph_for(bundle, module, options)


def _choose(bundle: Bundle, options: BackendOptions, staged: bool) -> BackendModule:
    fitting = _fitting(options.device_name)
    _check_index(fitting, options)
    if staged:
        fitting = _running_stages(fitting, options)
    readable = [m for m in fitting if _readable(bundle, m, options)]
    if not readable:
        raise BackendError(_unreadable(bundle, fitting, options))
    obstacles: list[BackendError] = []
    for module in readable:
        obstacle = module.obstacle(bundle, options)
        if obstacle is None:
            return module
        obstacles.append(obstacle)
    raise _joined(readable, obstacles)


def _fitting(device: str) -> list[BackendModule]:
    known = backends()
    if device in known:
        return [known[device]]
    fitting = [m for m in known.values() if device == "auto" or device in m.DEVICES]
    if not fitting:
        names = sorted({"auto", *known, *(d for m in known.values() for d in m.DEVICES)})
        raise BackendError(f"unknown device {device!r}; expected one of {', '.join(names)}")
    return fitting


def _running_stages(fitting: list[BackendModule], options: BackendOptions) -> list[BackendModule]:
    able = [module for module in fitting if module.RUNS_STAGES]
    if not able:
        names = " or ".join(name for name, module in backends().items() if module.RUNS_STAGES)
        raise BackendError(f"device {options.device!r}: {fitting[0].NAME} runs no stages; choose {names}")
    return able


def _check_index(fitting: list[BackendModule], options: BackendOptions) -> None:
    device, colon, index = options.device.partition(":")
    if not colon:
        return
    numbered = device != "auto" and any(m.HAS_INDEX for m in fitting)
    if not (numbered and is_index(index)):
        name = fitting[0].NAME if len(fitting) == 1 else device
        expected = f"{device!r}, or {device + ':0'!r} and so on" if numbered else repr(device)
        raise BackendError(f"device {options.device!r}: {name} takes no device number {index!r}; say {expected}")


def _readable(bundle: Bundle, module: BackendModule, options: BackendOptions) -> bool:
    return bool(_graphs(bundle, module, options))


def _graphs(bundle: Bundle, module: BackendModule, options: BackendOptions) -> list[Graph]:
    """The bundle's graphs that the engine may run."""
    reads = [d for d in module.DIALECTS if options.dialect in (None, d)]
    return [graph for graph in bundle.manifest.graphs if graph.dialect in reads]


def _unreadable(bundle: Bundle, fitting: Iterable[BackendModule], options: BackendOptions) -> str:
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


def _graph_for(bundle: Bundle, module: BackendModule, options: BackendOptions) -> Graph:
    manifest = bundle.manifest
    graphs = _graphs(bundle, module, options)
    known = {(graph.dialect, graph.compute_dtype): graph for graph in graphs}
    wanted = module.compute_dtypes(manifest.dtype, options.precision)
    for key in ((dialect, dtype) for dialect in module.DIALECTS for dtype in wanted):
        if key in known:
            return known[key]
    have = ", ".join(sorted({g.compute_dtype for g in graphs}))
    raise BackendError(
        f"{module.NAME} cannot compute this {manifest.dtype} bundle with precision {options.precision!r} on this "
        f"machine; its graphs compute in {have}. Leave the precision to 'auto', or choose another device"
    )


def _joined(modules: list[BackendModule], obstacles: list[BackendError]) -> BackendError:
    """One error of all obstacles: what can be installed, or else why what is installed cannot run."""
    if len(obstacles) == 1:
        return obstacles[0]
    missing: list[BackendModule] = []
    others: dict[str, list[str]] = {}  # one driver is missing to several
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
