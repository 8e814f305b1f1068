"""OpenVINO on CPUs: bf16 products where the processor has them, fp32 otherwise or on request."""

import importlib
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rmruntime.backends.base import CPU_BATCH_TOKENS, Feeds, Outputs, package_obstacle
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_names import HIDDEN_OUT, INPUT_IDS
from rmruntime.bundle.manifest import Graph
from rmruntime.bundle.safetensors_header import ITEM_BYTES
from rmruntime.devices.host_memory import available_memory, stage_share
from rmruntime.engine_choice import EngineFacts
from rmruntime.errors import BackendError
from rmruntime.options import EngineOptions

NAME = "openvino"
DEVICES = ("cpu",)
PRIORITY = 20
HAS_INDEX = False
PACKAGE = "openvino"
EXTRA = "openvino"
DIALECTS = ("openvino", "traced")
RUNS_STAGES = True

# As `EngineFacts.speed`; measured figures are in docs/performance.md.
SPEEDS = {"bf16": 2.0, "fp32": 0.9}
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "avx_ne_convert"}  # of /proc/cpuinfo; bf16 products need one of them


def compute_dtypes(bundle_dtype: str, precision: str) -> tuple[str, ...]:
    """bf16 for a bf16 bundle where the processor has bf16 products; for another bundle only on request.

    >>> compute_dtypes("fp32", "auto")
    ('fp32',)
    """
    narrow = bundle_dtype == "bf16" if precision == "auto" else precision == "bf16"
    if narrow and has_bf16():
        return ("bf16", "fp32")
    return ("fp32",) if precision in ("auto", "fp32") else ()


def has_bf16() -> bool:
    """Whether this processor has bf16 matrix products (AMX or AVX-512 BF16).

    The flags of the processor can rule it out; else OpenVINO is asked, which must be imported for that.
    """
    flags = _processor_flags()
    if flags and not flags & BF16_FLAGS:
        return False
    return "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _processor_flags() -> set[str]:
    """The flags of an x86 processor on Linux, from /proc/cpuinfo; else empty."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def obstacle(bundle: Bundle, options: EngineOptions) -> BackendError | None:
    """An error where the package openvino is missing."""
    return package_obstacle(PACKAGE, EXTRA)


def facts(bundle: Bundle, graph: Graph, options: EngineOptions) -> EngineFacts:
    """Fast bf16 products, which other engines do not have on CPUs, or fp32."""
    precision = _precision(graph, options)
    because = "this processor has bf16 products" if precision == "bf16" else ""
    return EngineFacts(
        precision=precision,
        speed=SPEEDS[precision],
        memory=_heap_bytes(bundle, graph, options, precision),
        because=because,
    )


def load(bundle: Bundle, graph: Graph, options: EngineOptions) -> "OpenVinoBackend":
    """The graph compiled for this processor; weights stay memory-mapped until the first pass packs them."""
    return OpenVinoBackend(bundle, graph, options)


class OpenVinoBackend:
    """One compiled model and its only inference request."""

    name = NAME
    batch_tokens = CPU_BATCH_TOKENS

    def __init__(self, bundle: Bundle, graph: Graph, options: EngineOptions) -> None:
        self.graph = graph
        self.precision = _precision(graph, options)
        path = str(bundle.folder / graph.file)
        try:
            compiled = openvino_core().compile_model(path, "CPU", _settings(graph, options))
            self._request = compiled.create_infer_request()
        except Exception as error:  # openvino raises bare RuntimeError for everything
            raise BackendError(
                f"openvino cannot load {graph.file}: {error}; choose another device, or export the bundle again"
            ) from error
        self._inputs = [value.any_name for value in compiled.inputs]
        past = bundle.manifest.past_outputs(graph)
        wanted = {HIDDEN_OUT, *past, *(output.name for output in bundle.manifest.outputs)}  # a value has several names
        self._outputs = {name: value for value in compiled.outputs for name in value.names & wanted}
        self._past = frozenset(past) if graph.compute_dtype == "bf16" else frozenset()

    def run(self, feeds: Feeds) -> Outputs:
        given = {name: _tensor(feeds[name]) if self._past else feeds[name] for name in self._inputs}
        try:
            values = self._request.infer(given, share_inputs=True, share_outputs=True)
        except Exception as error:  # openvino raises bare RuntimeError for everything
            raise BackendError(f"openvino failed on a pass of {feeds[INPUT_IDS].size} tokens: {error}") from error
        return {name: self._array(values, name, output) for name, output in self._outputs.items()}

    def _array(self, values: Any, name: str, output: Any) -> Any:
        """A copy, as the next pass writes into the same memory; bf16, which numpy has not, as its bits in uint16."""
        if name not in self._past:
            return values[output].copy()
        return self._request.get_tensor(output).data.view(np.uint16).copy()

    def close(self) -> None:
        self._request, self._outputs = None, {}  # the outputs too keep the model alive, and the weights mapped


def _tensor(array: Any) -> Any:
    """Bits of bf16 as what they are; other arrays are taken as they are."""
    if array.dtype != np.uint16:
        return array
    ov = importlib.import_module("openvino")
    return ov.Tensor(array, list(array.shape), ov.Type.bf16)


def _precision(graph: Graph, options: EngineOptions) -> str:
    return "bf16" if "bf16" in (graph.compute_dtype, options.precision) else "fp32"


def _heap_bytes(bundle: Bundle, graph: Graph, options: EngineOptions, precision: str) -> int:
    """Bytes of packed weights; weights of another dtype than the arithmetic's are also converted, for as much again.

    With stages in turn there is at most the stage memory at a time. Quantized weights are not converted.
    """
    manifest = bundle.manifest
    stored = manifest.weight_bytes(graph)
    if manifest.dtype == precision:
        nbytes = stored
    else:
        codes = 0 if manifest.quantization is None else manifest.quantization.parameters
        converted = 2 * ITEM_BYTES[precision] * (manifest.backbone.parameters - codes) * manifest.weight_share(graph)
        nbytes = int(converted) + (stored if codes else 0)
    if options.stage_memory is None:
        return nbytes
    limit = stage_share(available_memory()) if options.stage_memory == "auto" else options.stage_memory
    return nbytes if stored <= limit else nbytes * limit // stored


def _settings(graph: Graph, options: EngineOptions) -> dict[str, Any]:
    """OpenVINO's settings. The graph's types decide the arithmetic; bf16 of an fp32 graph is the engine's to convert.

    No CACHE_DIR: a graph with a Scan comes back from OpenVINO's cache (2026.4) with wrong results, and compiling, which
    copies no weights, takes 0.3 s.
    """
    narrow = options.precision == "bf16" and graph.compute_dtype == "fp32"
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if narrow else "f32",  # its default would narrow fp32 heads
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # its default rounds the inputs of quantized layers to 8 bits
    }
    if options.threads:
        settings["INFERENCE_NUM_THREADS"] = options.threads
        if options.threads < (os.cpu_count() or 1):
            # Other engines may share the cores, and each that pins its threads would take the same first ones.
            settings["ENABLE_CPU_PINNING"] = False
    return settings


# The one openvino.Core of a process, which lives as long as the process.
#
# Its CPU plugin gives the thread that loads it another stack for signal handlers, and frees that stack when the last
# Core, or model that one compiled, is destroyed, on whatever thread that happens. The first thread is then left with a
# stack that is gone, and the next signal, such as Ctrl-C, is a segmentation fault (seen with OpenVINO 2026.4).
@cache
def openvino_core() -> Any:
    """The one openvino.Core of this process. Raises ImportError where openvino is not installed."""
    return importlib.import_module("openvino").Core()
