"""Opens ONNX Runtime sessions on a GPU, and refuses graphs of which ORT would run nodes on the CPU."""

import io
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from rmruntime.errors import BackendError, DeviceMemoryError, EngineUnusable, listing

PROVIDER = "CUDAExecutionProvider"

# Operators that compute sizes: ORT keeps such arithmetic on small integers on the host, which launches the kernels
# (GetCpuPreferredNodes in its source). Graphs that were written for CUDA have none.
SIZE_OPS = frozenset(
    {
        "Add",
        "Cast",
        "Concat",
        "ConstantOfShape",
        "Div",
        "Equal",
        "Expand",
        "Gather",
        "Identity",
        "Mul",
        "Range",
        "ReduceProd",
        "Reshape",
        "Shape",
        "Size",
        "Slice",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Unsqueeze",
        "Where",
    }
)

_SHOWN = 8  # nodes that an error names
_OUT_OF_MEMORY = re.compile(
    r"failed to allocate memory|out of memory|out_of_memory|alloc_failed|cudaErrorMemoryAllocation|bfc_?arena|"
    r"available memory of \d+ is smaller",
    re.IGNORECASE,
)


def provider_options(device: int, arena_limit: int | None) -> dict[str, str]:
    """The options of ORT's CUDA provider: fp32 products in fp32, sums in fp32; `arena_limit` bytes, without weights.

    TF32 would leave fp32 products 10 bits of mantissa; without the strict mode SkipSimplifiedLayerNormalization sums
    squares in 16 bits; the default search for convolutions would try all of them for every new length. The arena grows
    by powers of two: by no more than requested, passes of ever new sizes would go on allocating, and each allocation
    waits for the device.

    >>> provider_options(0, arena_limit=None)["use_tf32"]
    '0'
    """
    options = {
        "device_id": str(device),
        "use_tf32": "0",
        "enable_skip_layer_norm_strict_mode": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kNextPowerOfTwo",
    }
    return options | ({} if arena_limit is None else {"gpu_mem_limit": str(arena_limit)})


def open_session(ort: Any, path: Path, options: Mapping[str, str], *, threads: int, fold: bool) -> Any:
    """A session on the GPU; `fold` lets ORT compute constant parts of the graph when it loads, on the host.

    Raises EngineUnusable where the provider does not load, DeviceMemoryError, and BackendError for a graph that cannot
    be loaded.
    """
    missing = _preload(ort)
    ort.set_default_logger_severity(3)  # it warns of plugins that it did not find and that are not needed
    settings = ort.SessionOptions()
    settings.log_severity_level = 4  # the warnings that matter are checked below; errors are also raised
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.disable_quant_qdq", "1")  # weights alone are quantized, for their size
    # Passes hardly ever have the sizes of an earlier one. For one that does, ORT would allocate all its memory again,
    # in one block beside those of the first; and it never frees a memory pattern.
    settings.enable_mem_pattern = False
    settings.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(
            str(path),
            settings,
            providers=[(PROVIDER, dict(options))],
            disabled_optimizers=[] if fold else ["ConstantFolding"],
            enable_fallback=0,  # it would print, and load the graph for the CPU
        )
    except Exception as error:  # onnxruntime raises a dozen types without a common base
        if not _provider_loads(ort, int(options["device_id"])):  # ORT then tried the CPU, which lacks some kernels
            raise EngineUnusable(_no_provider(ort, missing)) from error
        raise session_error(f"onnxruntime cannot load {path.name} for CUDA", error) from error
    if PROVIDER not in session.get_providers()[:1]:
        raise EngineUnusable(_no_provider(ort, missing))
    return session


def check_placement(session: Any, file: str, allowed: frozenset[str]) -> None:
    """Raises BackendError for nodes that ORT placed on another provider, except for the operators in `allowed`."""
    stray = [
        f"{node.op_type} ({node.name})"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
        if node.op_type not in allowed
    ]
    if stray:
        raise BackendError(
            f"this onnxruntime-gpu has no CUDA kernel for {len(stray)} nodes of {file}, which would run on the CPU: "
            f"{listing(stray, _SHOWN)}. Install the version that rmruntime[cuda] asks for, or choose another "
            "device"
        )


def session_error(what: str, error: Exception) -> BackendError:
    """The error to raise for one of ORT's; `what` is the failure, as the beginning of the message.

    DeviceMemoryError where memory was short, EngineUnusable where cuDNN is missing, else BackendError.

    >>> type(session_error("a pass failed", RuntimeError("CUDA out of memory"))).__name__
    'DeviceMemoryError'
    """
    if "cuDNN is unavailable" in str(error):  # only some kernels need it, and only when they first run
        return EngineUnusable(f"{what}: {error}; pip install 'rmruntime[cuda]' installs cuDNN 9")
    kind = DeviceMemoryError if _OUT_OF_MEMORY.search(str(error)) else BackendError
    return kind(f"{what}: {error}")


def cuda_major(ort: Any) -> int:
    """The major version of CUDA that this build of onnxruntime (`ort`) needs, 0 where it does not state it.

    >>> from types import SimpleNamespace
    >>> cuda_major(SimpleNamespace(cuda_version="12.8"))
    12
    """
    version = re.match(r"\d+", str(getattr(ort, "cuda_version", "")))
    return int(version[0]) if version else 0


def _preload(ort: Any) -> str:
    """Load CUDA's libraries from their wheels; returns onnxruntime's messages about those that are missing.

    They are caught because onnxruntime prints them to stdout, where scores may go.
    """
    said = io.StringIO()
    with redirect_stdout(said):
        ort.preload_dlls()
    reasons = re.findall(r"^Failed to load [^:]+: (.+)", said.getvalue(), re.MULTILINE)
    return "; ".join(reasons)


def _provider_loads(ort: Any, device: int) -> bool:
    try:
        ort.OrtValue.ortvalue_from_numpy(np.zeros(1, np.float32), "cuda", device)
    except Exception as error:  # onnxruntime has no type for it
        return "CUDA Provider not available" not in str(error)
    return True


def _no_provider(ort: Any, missing: str) -> str:
    major = cuda_major(ort)
    return (
        f"onnxruntime-gpu {ort.__version__} cannot load its CUDA provider"
        + (f" ({missing})" if missing else "")
        + f"; it needs CUDA {major or 'of its build'} and cuDNN 9: pip install 'rmruntime[cuda]' installs both"
    )
