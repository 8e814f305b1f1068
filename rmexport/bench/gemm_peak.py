"""The peak rate of this machine's matrix units, and the products that a model needs."""

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
    """Peaks by dtype in a process of its own, with torch, else OpenVINO; none where neither is installed."""
    command = [sys.executable, "-P", str(PROBE), str(options.threads), torch_device(options.device)]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return []
    peaks: list[dict[str, Any]] = json.loads(found.stdout.splitlines()[-1]) if found.returncode == 0 else []
    return peaks


def torch_device(device: str) -> str:
    """Where torch computes when the bundle's backend is told `device`."""
    return "cuda" if device.startswith(("cuda", "tensorrt", "gpu", "ort-cuda")) else "cpu"


def matmul_parameters(bundle: Bundle) -> int:
    """Weights that every token is multiplied with: the layers' matrices, without embedding, head and norms."""
    by_stack: dict[str, int] = defaultdict(int)
    for record in bundle.manifest.files:
        if record.role == "weights":
            for name, entry in read_header(bundle.path(record.name)).items():
                if (found := _LAYER.match(name)) and len(entry.shape) == 2 and not name.endswith(SCALE_SUFFIX):
                    # codes of 4 bits are two per byte
                    by_stack[found[1]] += math.prod(entry.shape) * (2 if entry.dtype == "uint8" else 1)
    return max(by_stack.values(), default=0)  # the backbone's stack of layers: a gate may have one too
