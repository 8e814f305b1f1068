"""The peak rate of this machine's matrix products (Gemm), and how many such products a model needs per token."""

import json
import math
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rmexport.bench.options import BenchOptions
from rmexport.weights.quantization import SCALE_SUFFIX
from rmruntime.bundle import Bundle
from rmruntime.bundle.safetensors_header import read_header

PROBE = Path(__file__).parent / "gemm_probe.py"
PATIENCE_S = 300
_LAYER = re.compile(r"(.*?)\blayers?\.\d+\.")


def measure_gemm_peaks(options: BenchOptions) -> list[dict[str, Any]]:
    """The peak rate of each dtype, as the report's records; `flops` is in floating-point operations per second.

    Measured in a process of its own, with torch, else with OpenVINO; empty where neither is installed.
    """
    command = [sys.executable, "-P", str(PROBE), str(options.threads), torch_device(options.device)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return []
    peaks: list[dict[str, Any]] = json.loads(found.stdout.splitlines()[-1]) if found.returncode == 0 else []
    return peaks


def torch_device(device: str) -> str:
    """The name that torch has for the bundle's `device`.

    >>> torch_device("auto"), torch_device("cuda:1"), torch_device("openvino")
    ('cpu', 'cuda', 'cpu')
    """
    return "cuda" if device.startswith(("cuda", "tensorrt", "gpu", "ort-cuda")) else "cpu"


def matmul_parameters(bundle: Bundle) -> int:
    """How many weights every token is multiplied with: those of the layers' matrices, not embedding, head and norms."""
    by_stack: dict[str, int] = defaultdict(int)
    for record in bundle.manifest.files:
        if record.role == "weights":
            for name, entry in read_header(bundle.path(record.name)).items():
                if (found := _LAYER.match(name)) and len(entry.shape) == 2 and not name.endswith(SCALE_SUFFIX):
                    # quantized weights of 4 bits are two per byte
                    by_stack[found[1]] += math.prod(entry.shape) * (2 if entry.dtype == "uint8" else 1)
    return max(by_stack.values(), default=0)  # the largest stack of layers is the backbone's; a gate may have one too
