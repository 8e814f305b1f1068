"""One engine with a prefix cache: its graph takes a past, and some memory is set aside for keys and values."""

from typing import TypeVar

from rmruntime.backends import EngineChoice, load_backend
from rmruntime.bundle import Bundle
from rmruntime.devices.host_memory import available_memory, cache_share
from rmruntime.errors import BackendError
from rmruntime.executors.base import DirectExecutor, PassExecutor
from rmruntime.options import EngineOptions

Executor = TypeVar("Executor", bound=PassExecutor)


def load_cached(bundle: Bundle, options: EngineOptions, choice: EngineChoice) -> DirectExecutor:
    """The chosen engine with the cache that the options ask for; without one where they say "auto" and none can be.

    Raises BackendError where a size was asked for and none can be, and what loading raises.
    """
    graph, pinned = choice.graph, choice.pinned(options)
    if graph.past is None:
        plain = DirectExecutor(load_backend(bundle, pinned), choice.reason)
        return refuse_cache(plain, options, _obstacle(bundle, choice))
    free = available_memory()
    backend = choice.module.load(bundle, graph.of_past(), pinned)
    if options.prefix_cache == "auto":
        # Some engines pack their weights in the first pass: they are not taken yet.
        size = cache_share(max(0, min(available_memory(), free - choice.facts.memory)))
    else:
        size = int(options.prefix_cache)
    return DirectExecutor(backend, choice.reason, cache_bytes=size)


def refuse_cache(executor: Executor, options: EngineOptions, why: str) -> Executor:
    """The executor, with the reason why "auto" is no cache. Raises BackendError where a size was asked for."""
    if options.prefix_cache == "off":
        return executor
    if options.prefix_cache != "auto":
        executor.close()
        raise BackendError(f"there can be no prefix cache: {why}. Leave --prefix-cache out, or choose auto")
    executor.cache_note = why
    return executor


def _obstacle(bundle: Bundle, choice: EngineChoice) -> str:
    if choice.graph.layout == "padded":
        return "an encoder computes each sequence whole"
    if not any(graph.past for graph in bundle.manifest.graphs):
        return "the bundle has no graphs with a past: export it again"
    return f"{choice.module.NAME} runs graphs of {choice.graph.dialect} here, which have none with a past"
