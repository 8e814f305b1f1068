"""What an executor needs for a prefix cache: the graph's form with a past, and memory for keys and values."""

from typing import TypeVar

from rmruntime.backends import EngineChoice, load_backend
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Graph
from rmruntime.devices.host_memory import available_memory, cache_share
from rmruntime.errors import BackendError
from rmruntime.executors.base import DirectExecutor, PassExecutor
from rmruntime.options import EngineOptions

Executor = TypeVar("Executor", bound=PassExecutor)


def load_cached(bundle: Bundle, options: EngineOptions, choice: EngineChoice) -> DirectExecutor:
    """The chosen engine with the cache that the options ask for; without one where they say "auto" and none can be.

    Raises BackendError where a size was asked for and none can be, and what loading raises.
    """
    graph, pinned, free = cached_form(bundle, options, choice), choice.pinned(options), available_memory()
    if graph is None:
        plain = DirectExecutor(load_backend(bundle, pinned), choice.reason)
        return without_cache(plain, options, obstacle(bundle, choice))
    executor = DirectExecutor(choice.module.load(bundle, graph, pinned), choice.reason)
    return with_cache(executor, options, choice, free)


def cached_form(bundle: Bundle, options: EngineOptions, choice: EngineChoice, *, staged: bool = False) -> Graph | None:
    """The form with a past of the chosen graph, None where there is none or no cache is asked for.

    Raises BackendError where a size was asked for and there is none.
    """
    graph = choice.graph
    if options.prefix_cache == "off":
        return None
    if graph.past is None or (staged and any(stage.past is None for stage in graph.stages)):
        if options.prefix_cache != "auto":
            raise refusal(obstacle(bundle, choice))
        return None
    return graph.of_past()


def with_cache(executor: Executor, options: EngineOptions, choice: EngineChoice, free: int) -> Executor:
    """The executor of a loaded model, with memory for the cache; `free` bytes of the host were left before.

    Some engines pack their weights in the first pass, so they may not be taken yet. An engine that keeps keys on its
    device has decided how many, by the same options.
    """
    if executor.key_memories:
        tokens = min(memory.cache_tokens for memory in executor.key_memories)
        executor.cache_bytes = tokens * sum(memory.token_bytes for memory in executor.key_memories)
    elif isinstance(options.prefix_cache, int):
        executor.cache_bytes = options.prefix_cache
    else:
        executor.cache_bytes = cache_share(max(0, min(available_memory(), free - choice.facts.memory)))
    return executor if executor.cache_bytes else without_cache(executor, options, "no memory is left for it")


def without_cache(executor: Executor, options: EngineOptions, why: str) -> Executor:
    """The executor, with the reason why it has no cache, where one was asked for."""
    executor.cache_note = "" if options.prefix_cache == "off" else why
    return executor


def refusal(why: str) -> BackendError:
    """For a cache of a given size.

    >>> str(refusal("an encoder computes each sequence whole"))
    'there can be no prefix cache: an encoder computes each sequence whole. Leave --prefix-cache out, or choose auto'
    """
    return BackendError(f"there can be no prefix cache: {why}. Leave --prefix-cache out, or choose auto")


def obstacle(bundle: Bundle, choice: EngineChoice) -> str:
    """Why the chosen graph has no form with a past."""
    if choice.graph.layout == "padded":
        return "an encoder computes each sequence whole"
    if not choice.graph.causal:
        return "this model's tokens see those after them, so that none can be computed before the others are known"
    if not any(graph.past for graph in bundle.manifest.graphs):
        return "the bundle has no graphs with a past: export it again"
    return f"{choice.module.NAME} runs graphs of {choice.graph.dialect} here, which have none with a past"
