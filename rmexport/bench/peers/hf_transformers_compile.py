"""transformers under torch.compile, with dynamic shapes so that a new length does not compile anew."""

import importlib
from typing import Any

from rmexport.bench.worker.padded import PaddedScorer, Rows
from rmexport.bench.worker.scorer import LoadOptions, Scorer
from rmexport.bench.worker.torch_model import load_classifier, pad_id_of

NAME = "transformers-compile"
PACKAGES = ("torch", "transformers")
DISTRIBUTIONS = ("torch", "transformers")
DTYPES = ("bf16", "fp32", "fp16")
HEADS = ("sequence_classification",)


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The classifier in `dtype`; its first passes compile."""
    torch: Any = importlib.import_module("torch")
    model = load_classifier(folder, dtype, threads, options)
    pad_id = pad_id_of(model, options)
    compiled = torch.compile(model, dynamic=True)

    def logits(ids: Rows, mask: Rows) -> list[float]:
        with torch.inference_mode():
            rows = torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)
            found = compiled(rows[0], attention_mask=rows[1], use_cache=False).logits[:, options.label]
        return [float(value) for value in found.float().tolist()]

    settings = f"{dtype}, sdpa attention, torch.compile(dynamic=True)"
    return PaddedScorer(logits, batch=options.batch, pad_id=pad_id, precision=dtype, settings=settings)
