"""Published weights, made into checkpoints once on a machine: SmolLM2-135M-Instruct and MiniLM, from packages.

They are what the tests marked `real` and benchmarks/bench_real_models.py measure: weights, tokenizers and a chat
template that people use, with the outliers that random weights lack. No published reward model is small enough to be in
a package, so the heads are fitted here to the example's training pairs. Needs `./scripts/install --real`.
"""

import fcntl
import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rmruntime.backends import backends

ROOT = Path(__file__).parent.parent.parent
PACKAGES = Path(sys.prefix) / ".real"  # those of scripts/real.txt, beside the environment's own
OPTIMUM = Path(sys.prefix) / ".optimum"
MAKER = Path(__file__).with_name("make_real_checkpoint.py")
JUDGE_RECIPE = Path(__file__).with_name("yes_or_no_judge.json")
CLASSIFIER, JUDGE, ENCODER = KINDS = ("smollm2-classifier", "smollm2-judge", "minilm-classifier")
# What a checkpoint's bytes follow from, beside the processor.
SOURCES = (MAKER, Path(__file__).with_name("permuted_llama.py"), ROOT / "scripts/real.txt", ROOT / "constraints.txt")

DTYPES = ("fp32", "bf16", "fp16")
# Dtype of the bundle, engine, arithmetic. bf16 products belong to bf16 bundles: `verify` holds the others to their own.
RUNS = (
    *((dtype, engine, "fp32") for engine in ("ort-cpu", "openvino") for dtype in DTYPES),
    ("bf16", "openvino", "bf16"),
)


class RealModelsMissing(RuntimeError):
    """The packages with published weights are not installed."""


def runs_here(engine: str, precision: str) -> bool:
    """Whether the engine has this arithmetic for a bf16 bundle on this processor."""
    return precision in backends()[engine].compute_dtypes("bf16", precision)


def cache_folder() -> Path:
    """`RMEXPORT_REAL_MODELS`, or else a folder of the user's cache."""
    if given := os.environ.get("RMEXPORT_REAL_MODELS"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmexport" / "real-models"


def real_checkpoint(kind: str) -> Path:
    """The folder of one of `KINDS`, made by the first process that asks for it; to be read, not written.

    It appears whole or not at all, under a name that changes with what makes it. Raises RealModelsMissing, and
    subprocess.CalledProcessError where it cannot be made.
    """
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:12]
    folder = cache_folder() / f"{kind}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system lets go of it when a process ends, however it does
        if not folder.exists():
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                _make(kind, partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _make(kind: str, folder: Path) -> None:
    """In a process of its own: transformers would use the packages wherever it finds them."""
    if not PACKAGES.is_dir():
        raise RealModelsMissing(f"{PACKAGES} is missing, the packages with published weights: ./scripts/install --real")
    paths = (PACKAGES, MAKER.parent, ROOT / "examples")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, MAKER, kind, folder], env=environment, check=True)


def real_pairs(count: int, *, single: bool = False) -> list[dict[str, Any]]:
    """The first held-out pairs of the example; with `single`, of those whose prompt is one question (encoders)."""
    records = (json.loads(line) for line in (ROOT / "examples" / "pairs.jsonl").read_text().splitlines())
    return list(itertools.islice((r for r in records if not single or isinstance(r["prompt"], str)), count))


def export_encoder(checkpoint: Path, bundle: Path, dtype: str) -> None:
    """As `rmexport export --dtype`, with optimum-onnx and the transformers that it takes."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (OPTIMUM, ROOT, ROOT / "runtime")))}
    command = [sys.executable, "-m", "rmexport", "export", checkpoint, bundle, "--dtype", dtype]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
