"""ONNX Runtime on NVIDIA GPUs, in the bundle's own dtype, or in fp32 on request."""

import math
from typing import Any

from rmruntime.backends._cuda_key_memory import CudaKeyMemory, asked_bytes, cache_tokens, own_bytes, pass_token_bytes
from rmruntime.backends._ort_cuda_session import (
    PROVIDER,
    SIZE_OPS,
    check_placement,
    cuda_major,
    open_session,
    provider_options,
    session_error,
)
from rmruntime.backends._ort_io_binding import DeviceBinding
from rmruntime.backends.base import Feeds, Outputs, engine_module, package_obstacle
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_names import INPUT_IDS
from rmruntime.bundle.manifest import Graph
from rmruntime.bundle.safetensors_header import read_header
from rmruntime.devices.cuda_driver import CudaDevice, cuda_device, driver_version, free_memory
from rmruntime.devices.host_memory import NARROWER
from rmruntime.engine_choice import EngineFacts
from rmruntime.errors import BackendError, DeviceMemoryError, EngineUnusable
from rmruntime.options import EngineOptions

NAME = "ort-cuda"
DEVICES = ("cuda",)
PRIORITY = 30
HAS_INDEX = True
PACKAGE = "onnxruntime"
EXTRA = "cuda"
# Written for CUDA, in the bundle's dtype. By pages, 16 bits reach FlashAttention; a mask, which rows need, forbids it.
OWN_DIALECTS = ("ort-cuda-paged", "ort-cuda")
# The others are fp32: a 16-bit bundle's graph for fp32 arithmetic, and the graph of an encoder.
DIALECTS = (*OWN_DIALECTS, "ort-cpu", "traced")
RUNS_STAGES = True

# Estimates, none of them measured on a GPU.
SPEED = 30.0  # as `EngineFacts.speed`
BATCH_TOKENS = 16384  # a Gemm of a few thousand rows fills a large GPU; more rows hide the launches of small kernels
LEAST_TOKENS = 512  # with fewer tokens in a pass the GPU is not worth using
# Memory per token of a pass, in multiples of the hidden size; "rows" copies keys for every row.
TOKEN_VALUES = {"rows": 64, "pages": 24}
CODE_DTYPES = ("int8", "uint8", "fp8_e4m3")  # of quantized matrices
ENGINE_BYTES = 1 << 29  # bytes for workspaces, and the code of cuBLAS and cuDNN


def compute_dtypes(bundle_dtype: str, precision: str) -> tuple[str, ...]:
    """The bundle's dtype, which the graph has too; fp32 on request, and for encoders, which have no other graph.

    >>> compute_dtypes("bf16", "auto"), compute_dtypes("bf16", "fp16")
    (('bf16', 'fp32'), ())
    """
    if precision == "auto":
        return tuple(dict.fromkeys((bundle_dtype, "fp32")))
    return (precision,) if precision in (bundle_dtype, "fp32") else ()


def obstacle(bundle: Bundle, options: EngineOptions) -> BackendError | None:
    """An error where the driver, the GPU, the package or a graph is missing or cannot be used."""
    try:
        device = cuda_device(options.device_index)
    except EngineUnusable as error:
        return error
    return package_obstacle(PACKAGE, EXTRA) or _build_obstacle() or _bundle_obstacle(bundle, options, device)


def facts(bundle: Bundle, graph: Graph, options: EngineOptions) -> EngineFacts:
    """The graph's own arithmetic, on the GPU."""
    return EngineFacts(precision=graph.compute_dtype, speed=SPEED, memory=0, because="it runs on a GPU")


def load(bundle: Bundle, graph: Graph, options: EngineOptions) -> "OrtCudaBackend":
    """A session with the weights on the GPU. Raises DeviceMemoryError where they and a pass do not fit there."""
    return OrtCudaBackend(bundle, graph, options)


class OrtCudaBackend:
    """One onnxruntime session and its binding."""

    name = NAME

    def __init__(self, bundle: Bundle, graph: Graph, options: EngineOptions) -> None:
        ort = engine_module(PACKAGE)
        self.graph, self.precision = graph, graph.compute_dtype
        self.batch_tokens = _room(bundle, graph, options)
        limited = self._limited_tokens(bundle, options)
        self._session = open_session(
            ort,
            bundle.folder / graph.file,
            provider_options(options.device_index, self._arena_limit(bundle, options, limited)),
            threads=options.threads,
            # Folding would widen narrow weights on the host and keep them wide; so every pass widens them on the GPU.
            fold=graph.compute_dtype == bundle.manifest.dtype and bundle.manifest.quantization is None,
        )
        check_placement(self._session, graph.file, _may_stay_on_the_host(graph))
        self.key_memory = self._key_memory(ort, bundle, options, limited)
        self._binding: Any = DeviceBinding(
            ort,
            self._session,
            options.device_index,
            kept=bundle.manifest.past_outputs(graph),
            pages={} if self.key_memory is None else self.key_memory.page_values,
        )
        self._usual, self._tidy = ort.RunOptions(), ort.RunOptions()
        self._tidy.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{options.device_index}")
        self._memory_was_short = False

    def run(self, feeds: Feeds) -> Outputs:
        # Memory kept for passes of other sizes is freed once, after the first pass that succeeds again.
        run_options = self._tidy if self._memory_was_short else self._usual
        try:
            outputs: Outputs = self._binding.run(feeds, run_options)
        except BackendError:
            raise
        except Exception as error:  # onnxruntime raises a dozen types without a common base
            problem = session_error(f"onnxruntime failed on a pass of {feeds[INPUT_IDS].size} tokens", error)
            self._memory_was_short |= isinstance(problem, DeviceMemoryError)
            raise problem from error
        self._memory_was_short = False
        return outputs

    def _limited_tokens(self, bundle: Bundle, options: EngineOptions) -> int | None:
        """Earlier tokens that a memory limit leaves memory for, known before anything is loaded; None without one."""
        if options.memory_limit is None:
            return None
        weights = bundle.manifest.weight_bytes(self.graph)
        free = min(free_memory(options.device_index), options.memory_limit) - weights
        return self._cache_tokens(bundle, options, free)

    def _cache_tokens(self, bundle: Bundle, options: EngineOptions, free: int) -> int:
        """Of earlier passes, where `free` bytes are left beside the weights."""
        left = free - ENGINE_BYTES - self.batch_tokens * _token_bytes(bundle, self.graph)
        return cache_tokens(bundle, self.graph, options, left)

    def _arena_limit(self, bundle: Bundle, options: EngineOptions, tokens: int | None) -> int | None:
        """Bytes of the memory limit that are left for ONNX Runtime's own allocator, whose limit counts no weights."""
        if options.memory_limit is None or tokens is None:
            return None
        keys = own_bytes(bundle, self.graph, tokens, self.batch_tokens)
        return options.memory_limit - bundle.manifest.weight_bytes(self.graph) - keys

    def _key_memory(self, ort: Any, bundle: Bundle, options: EngineOptions, tokens: int | None) -> CudaKeyMemory | None:
        """For a graph with a past; without a limit, what is left for it is known once the weights are loaded."""
        if not self.graph.takes_past:
            return None
        device = options.device_index
        if tokens is None:
            tokens = self._cache_tokens(bundle, options, free_memory(device))
        batch_tokens, session = self.batch_tokens, self._session
        return CudaKeyMemory(ort, device, bundle, self.graph, tokens=tokens, batch_tokens=batch_tokens, session=session)

    def close(self) -> None:
        if self.key_memory is not None:
            self.key_memory.page_values.clear()
        self._binding = None  # first: it holds memory of the session
        self._session = None


def _build_obstacle() -> BackendError | None:
    """An error for an onnxruntime without CUDA, or one for a newer CUDA than the driver's."""
    ort = engine_module(PACKAGE)
    if PROVIDER not in ort.get_available_providers():
        return EngineUnusable(
            f"the installed onnxruntime {ort.__version__} was built without CUDA: onnxruntime and onnxruntime-gpu "
            f"overwrite each other. pip uninstall onnxruntime onnxruntime-gpu, then pip install 'rmruntime[{EXTRA}]'"
        )
    supported, wanted = driver_version(), cuda_major(ort)
    if supported[0] < wanted:
        return EngineUnusable(
            f"the NVIDIA driver supports CUDA {supported[0]}.{supported[1]}, onnxruntime-gpu {ort.__version__} needs "
            f"CUDA {wanted}: install a newer driver, or an onnxruntime-gpu built for CUDA {supported[0]}"
        )
    return None


def _bundle_obstacle(bundle: Bundle, options: EngineOptions, device: CudaDevice) -> BackendError | None:
    """An error for a bundle without a graph of this precision, with only a slow fp32 graph that nobody asked for, or
    with bf16 graphs for a GPU without bf16.
    """
    dtype = bundle.manifest.dtype
    wanted = compute_dtypes(dtype, options.precision)
    dialects = [dialect for dialect in DIALECTS if options.dialect in (None, dialect)]
    graphs = [g for g in bundle.manifest.graphs if g.dialect in dialects and g.compute_dtype in wanted]
    if not graphs:
        return EngineUnusable(
            f"{NAME} has no graph that computes this {dtype} bundle with precision {options.precision!r}: leave the "
            "precision to 'auto', or choose another device"
        )
    if options.precision == "auto" and options.dialect is None and {g.dialect for g in graphs} == {"ort-cpu"}:
        return EngineUnusable(
            f"this bundle has no {' or '.join(OWN_DIALECTS)} graph, only a slower one in fp32: export it again with "
            "this version of rmexport, or choose precision fp32"
        )
    if any(graph.compute_dtype == "bf16" for graph in graphs) and device.compute_capability < (8, 0):
        return EngineUnusable(
            f"{device} has no bf16 arithmetic, which needs compute capability 8.0: choose precision fp32, or export "
            "the bundle in fp16"
        )
    return None


def _may_stay_on_the_host(graph: Graph) -> frozenset[str]:
    return frozenset() if graph.dialect in OWN_DIALECTS else SIZE_OPS


def _room(bundle: Bundle, graph: Graph, options: EngineOptions) -> int:
    """How many tokens of a pass fit in the GPU's memory beside the weights; DeviceMemoryError where too few do."""
    device = cuda_device(options.device_index)
    free = free_memory(device.index)
    if options.memory_limit is not None:
        free = min(free, options.memory_limit)
    size = 4 if graph.compute_dtype == "fp32" else 2
    free -= asked_bytes(bundle, graph, options)
    weights = bundle.manifest.weight_bytes(graph) + _widened(bundle, size)
    token = _token_bytes(bundle, graph)
    tokens = (free - weights - ENGINE_BYTES) // token
    if tokens < LEAST_TOKENS:
        least = weights + ENGINE_BYTES + LEAST_TOKENS * token
        limit = "" if options.memory_limit is None else ", raise the memory limit"
        short = (least - free) / 1e9
        raise DeviceMemoryError(
            f"{graph.file} needs about {least / 1e9:.1f} GB of {device}: {weights / 1e9:.1f} GB for weights, the rest "
            f"for a pass of {LEAST_TOKENS} tokens; {free / 1e9:.1f} GB may be used, {short:.1f} GB too little. Free "
            f"memory on it{limit}, or choose a GPU with more (cuda:1), or share the layers among several (export "
            f"--stages, then --device cuda:0,cuda:1), or load them in turn (--stage-memory), or {NARROWER}, or "
            "--device cpu"
        )
    return int(min(BATCH_TOKENS, tokens))


def _token_bytes(bundle: Bundle, graph: Graph) -> int:
    """Memory for each token of a pass, with keys and values that it leaves to later ones."""
    size = 4 if graph.compute_dtype == "fp32" else 2
    values = TOKEN_VALUES[graph.attention] * bundle.manifest.backbone.hidden_size * size
    return values + pass_token_bytes(bundle, graph)


def _widened(bundle: Bundle, size: int) -> int:
    """Bytes that the largest quantized matrix takes during its product: codes and values, in `size` bytes each."""
    if bundle.manifest.quantization is None:
        return 0
    files = [file.name for file in bundle.manifest.files if file.role == "weights"]
    entries = [entry for name in files for entry in read_header(bundle.path(name)).values()]
    return 2 * size * max(math.prod(entry.shape) for entry in entries if entry.dtype in CODE_DTYPES)
