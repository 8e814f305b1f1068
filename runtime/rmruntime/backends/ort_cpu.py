"""ONNX Runtime on the CPU, in fp32; narrower weights are widened at load or, when memory is short, in every pass.

Weights of 4 bits are never widened: ORT has a matrix product that reads them.
"""

from typing import Any

from rmruntime.backends.base import CPU_BATCH_TOKENS, Feeds, Outputs, engine_module, package_obstacle
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_names import INPUT_IDS
from rmruntime.bundle.manifest import Graph
from rmruntime.devices.host_memory import available_memory
from rmruntime.engine_choice import EngineFacts
from rmruntime.errors import BackendError
from rmruntime.options import EngineOptions, format_bytes

NAME = "ort-cpu"
DEVICES = ("cpu",)
PRIORITY = 10
HAS_INDEX = False
PACKAGE = "onnxruntime"
EXTRA = "cpu"
DIALECTS = ("ort-cpu", "traced")
RUNS_STAGES = True

HEAP_SHARE = 0.6  # the share of the available memory that fp32 copies of the weights may take
# As `EngineFacts.speed`; measured figures are in docs/performance.md.
PACKED, UNPACKED = 1.0, 0.5


def compute_dtypes(bundle_dtype: str, precision: str) -> tuple[str, ...]:
    """fp32 only: ORT has no 16-bit matrix products on CPUs.

    >>> compute_dtypes("bf16", "auto"), compute_dtypes("bf16", "bf16")
    (('fp32',), ())
    """
    return ("fp32",) if precision in ("auto", "fp32") else ()


def obstacle(bundle: Bundle, options: EngineOptions) -> BackendError | None:
    """An error where the package onnxruntime is missing."""
    return package_obstacle(PACKAGE, EXTRA)


def facts(bundle: Bundle, graph: Graph, options: EngineOptions) -> EngineFacts:
    """fp32 with packed copies of the weights, or slower without them where memory is too small for the copies."""
    heap = _heap_bytes(bundle, graph)
    if _has_room(bundle, graph, options):
        return EngineFacts(precision="fp32", speed=PACKED, memory=heap)
    turns = options.stages_in_turn
    why = "loads stages without packing them" if turns else f"lacks memory for {format_bytes(heap)} of packed weights"
    return EngineFacts(precision="fp32", speed=UNPACKED, memory=0, because=f"{NAME} {why}")


def load(bundle: Bundle, graph: Graph, options: EngineOptions) -> "OrtCpuBackend":
    """A session with the bundle's weights, which stay memory-mapped where they are used in their stored dtype."""
    return OrtCpuBackend(bundle, graph, options)


class OrtCpuBackend:
    """One onnxruntime session."""

    name = NAME
    batch_tokens = CPU_BATCH_TOKENS
    precision = "fp32"

    def __init__(self, bundle: Bundle, graph: Graph, options: EngineOptions) -> None:
        ort = engine_module(PACKAGE)
        self.graph = graph
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        # ORT's own handling of quantized models would keep it from folding, and would round the inputs of products.
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        settings.log_severity_level = 3  # its warnings about constant folding do not concern users
        disabled = [] if _has_room(bundle, graph, options) else self._frugal(settings)
        path = str(bundle.folder / graph.file)
        try:
            self._session = ort.InferenceSession(
                path, settings, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
            )
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise BackendError(
                f"onnxruntime cannot load {graph.file}: {error}; choose another device, or export the bundle again"
            ) from error
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    @staticmethod
    def _frugal(settings: Any) -> list[str]:
        """Keep weights in the page cache: no packed copies, no folded casts."""
        settings.add_session_config_entry("session.disable_prepacking", "1")
        return ["ConstantFolding"]

    def run(self, feeds: Feeds) -> Outputs:
        try:
            values = self._session.run(self._outputs, {name: feeds[name] for name in self._inputs})
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            raise BackendError(f"onnxruntime failed on a pass of {feeds[INPUT_IDS].size} tokens: {error}") from error
        return dict(zip(self._outputs, values, strict=True))

    def close(self) -> None:
        self._session = None


def _has_room(bundle: Bundle, graph: Graph, options: EngineOptions) -> bool:
    """Whether weights are widened and packed at load, rather than read from the page cache in every pass."""
    limit = options.memory_limit if options.memory_limit is not None else int(HEAP_SHARE * available_memory())
    return not options.stages_in_turn and _heap_bytes(bundle, graph) <= limit


def _heap_bytes(bundle: Bundle, graph: Graph) -> int:
    """Bytes of the graph's weights as the fast kernels need them: in fp32, or packed 4 bits with their scales."""
    parameters, quantization = bundle.manifest.backbone.parameters, bundle.manifest.quantization
    nbytes = 4 * parameters
    if quantization is not None and quantization.scheme == "int4":
        packed = quantization.parameters // 2 + 4 * quantization.parameters // quantization.block_size
        nbytes = 4 * (parameters - quantization.parameters) + packed
    return int(nbytes * bundle.manifest.weight_share(graph))
