"""optimum-intel: the classifier exported to OpenVINO by optimum, run on the CPU with a precision hint."""

import importlib
from pathlib import Path
from typing import Any

from rmexport.bench.worker.conversion import converted
from rmexport.bench.worker.padded import PaddedScorer, Rows
from rmexport.bench.worker.scorer import LoadOptions, Scorer
from rmexport.bench.worker.torch_model import pad_id_of

NAME = "optimum-intel"
PACKAGES = ("torch", "optimum.intel", "openvino")
DISTRIBUTIONS = ("optimum-intel", "optimum", "openvino", "transformers", "torch")
DTYPES = ("bf16", "fp32")
HEADS = ("sequence_classification",)
HINTS = {"bf16": "bf16", "fp32": "f32"}


def prepare(folder: str, options: LoadOptions) -> str:
    """Export the classifier, unless an earlier run did; returns its folder. Optimum's int8 of large models is off."""
    intel: Any = importlib.import_module("optimum.intel")

    def export(target: Path) -> None:
        model = intel.OVModelForSequenceClassification.from_pretrained(
            folder, export=True, compile=False, load_in_8bit=False
        )
        model.save_pretrained(target)

    return converted(folder, NAME, options, export)


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The exported model, compiled for this processor."""
    torch: Any = importlib.import_module("torch")
    intel: Any = importlib.import_module("optimum.intel")
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[dtype], "CACHE_DIR": ""}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    model = intel.OVModelForSequenceClassification.from_pretrained(folder, ov_config=settings)

    def logits(ids: Rows, mask: Rows) -> list[float]:
        found = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits[:, options.label]
        return [float(value) for value in found.tolist()]

    line = f"OpenVINO CPU, precision hint {HINTS[dtype]}"
    return PaddedScorer(logits, batch=options.batch, pad_id=pad_id_of(model, options), precision=dtype, settings=line)
