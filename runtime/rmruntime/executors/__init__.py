"""How passes are run: by one engine for the whole graph, as stages on several devices, or as stages in turn on one."""

from rmruntime.backends import choose_engine, load_backend
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_check import check_graphs
from rmruntime.executors.base import DirectExecutor, PassExecutor
from rmruntime.executors.cached import load_cached, refusal, without_cache
from rmruntime.executors.pipeline import load_pipeline
from rmruntime.executors.streaming import load_streaming
from rmruntime.options import EngineOptions

IN_TURN = "stages that run in turn keep none"

__all__ = ["DirectExecutor", "PassExecutor", "load_executor"]


def load_executor(bundle: Bundle, options: EngineOptions) -> PassExecutor:
    """The executor that the options ask for, with the bundle loaded.

    The bundle's graphs are checked before any engine reads one. Raises BundleError for graphs that differ from the
    manifest; EngineNotInstalled, EngineUnusable or BackendError where no engine can run the bundle, or where stages are
    asked for and the bundle has none; and DeviceMemoryError for a stage that does not fit.
    """
    check_graphs(bundle, past=options.prefix_cache != "off")
    if options.stages_in_turn:
        if options.prefix_cache not in ("auto", "off"):
            raise refusal(IN_TURN)
        return without_cache(load_streaming(bundle, options), options, IN_TURN)
    if options.devices[1:]:
        return load_pipeline(bundle, options)
    choice = choose_engine(bundle, options)
    if options.prefix_cache != "off":
        return load_cached(bundle, options, choice)
    return DirectExecutor(load_backend(bundle, choice.pinned(options)), choice.reason)
