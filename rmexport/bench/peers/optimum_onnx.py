"""optimum-onnx: the classifier exported to ONNX by optimum, run in fp32 by ONNX Runtime on the CPU."""

import importlib
from pathlib import Path
from typing import Any

from rmexport.bench.worker.conversion import converted
from rmexport.bench.worker.padded import PaddedScorer, Rows
from rmexport.bench.worker.scorer import LoadOptions, Scorer
from rmexport.bench.worker.torch_model import pad_id_of

NAME = "optimum-onnx"
PACKAGES = ("torch", "optimum.onnxruntime", "onnxruntime")
DISTRIBUTIONS = ("optimum-onnx", "optimum", "onnxruntime", "transformers", "torch")
DTYPES = ("fp32",)
HEADS = ("sequence_classification",)


def prepare(folder: str, options: LoadOptions) -> str:
    """Export the classifier to ONNX, unless an earlier run did; returns its folder."""
    optimum: Any = importlib.import_module("optimum.onnxruntime")

    def export(target: Path) -> None:
        optimum.ORTModelForSequenceClassification.from_pretrained(folder, export=True).save_pretrained(target)

    return converted(folder, NAME, options, export)


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The exported classifier, in fp32."""
    torch: Any = importlib.import_module("torch")
    optimum: Any = importlib.import_module("optimum.onnxruntime")
    session = importlib.import_module("onnxruntime").SessionOptions()
    session.intra_op_num_threads = threads
    model = optimum.ORTModelForSequenceClassification.from_pretrained(folder, session_options=session)

    def logits(ids: Rows, mask: Rows) -> list[float]:
        found = model(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits[:, options.label]
        return [float(value) for value in found.tolist()]

    return PaddedScorer(
        logits, batch=options.batch, pad_id=pad_id_of(model, options), precision="fp32", settings="ORT CPU, fp32"
    )
