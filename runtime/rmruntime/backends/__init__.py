"""Engines, one file each, found by their NAME; a file here is named nowhere else.

A backend module has NAME, DEVICES (names that `device=` may say for it), HAS_INDEX (whether `device:N` means anything),
PRIORITY (higher is preferred where several can run), PACKAGE and EXTRA (what to import, what to install), DIALECTS
(graphs it reads, best first), `compute_dtypes(bundle_dtype, precision)` (which of their arithmetics) and
`load(bundle, graph, options)`; only these two import the engine.
"""

import importlib
import importlib.util
import pkgutil
from functools import cache
from typing import Any

from rmruntime.backends.base import Backend, BackendModule, BackendOptions
from rmruntime.bundle import Bundle
from rmruntime.errors import BackendError, EngineNotInstalled
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

    Raises EngineNotInstalled naming the extra, or BackendError when no backend or no graph fits. Never falls back
    from a backend that was asked for.
    """
    device, colon, index = options.device.partition(":")
    module = _choose(bundle, device)
    if colon and not (module.HAS_INDEX and index.isdigit()):
        raise BackendError(f"device {options.device!r}: {module.NAME} takes no device number {index!r}; say {device!r}")
    if not _readable(bundle, module):
        have = ", ".join(sorted({g.dialect for g in bundle.manifest.graphs}))
        raise BackendError(
            f"device {options.device!r} runs {module.NAME}, which reads {', '.join(module.DIALECTS)} graphs; "
            f"this bundle has: {have}. Export it again with this version of rmexport"
        )
    if not _installed(module):
        raise EngineNotInstalled(_missing([module]))
    return module.load(bundle, _graph_for(bundle, module, options), options)


def _choose(bundle: Bundle, device: str) -> BackendModule:
    known = backends()
    if device in known:
        return known[device]
    fitting = [m for m in known.values() if device == "auto" or device in m.DEVICES]
    if not fitting:
        names = sorted({"auto", *known, *(d for m in known.values() for d in m.DEVICES)})
        raise BackendError(f"unknown device {device!r}; expected one of {', '.join(names)}")
    readable = [m for m in fitting if _readable(bundle, m)] or fitting
    installed = [m for m in readable if _installed(m)]
    if not installed:
        raise EngineNotInstalled(_missing(readable))
    return installed[0]


def _readable(bundle: Bundle, module: BackendModule) -> bool:
    return any(graph.dialect in module.DIALECTS for graph in bundle.manifest.graphs)


def _graph_for(bundle: Bundle, module: BackendModule, options: BackendOptions) -> Graph:
    manifest = bundle.manifest
    known = {(graph.dialect, graph.compute_dtype): graph for graph in manifest.graphs}
    wanted = module.compute_dtypes(manifest.dtype, options.precision)
    for key in ((dialect, dtype) for dialect in module.DIALECTS for dtype in wanted):
        if key in known:
            return known[key]
    have = ", ".join(sorted({g.compute_dtype for g in manifest.graphs if g.dialect in module.DIALECTS}))
    raise BackendError(
        f"{module.NAME} cannot compute this {manifest.dtype} bundle with precision {options.precision!r} on this "
        f"machine; its graphs compute in {have}. Leave the precision to 'auto', or choose another device"
    )


def _installed(module: BackendModule) -> bool:
    return importlib.util.find_spec(module.PACKAGE) is not None


def _missing(modules: list[BackendModule]) -> str:
    ways = " or ".join(f"pip install 'rmruntime[{m.EXTRA}]' ({m.PACKAGE})" for m in modules)
    return f"no engine is installed that can run this bundle: {ways}"
