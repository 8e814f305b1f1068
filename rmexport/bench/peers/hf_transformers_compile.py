"""transformers under torch.compile, with dynamic shapes so that a new length does not compile anew."""

import importlib
from typing import Any

from rmexport.bench.worker.padded import PaddedScorer
from rmexport.bench.worker.scorer import LoadOptions, Scorer
from rmexport.bench.worker.torch_model import load_classifier, pad_id_of, padded_logits

NAME = "transformers-compile"
INSTALLED_AS = "transformers"
PACKAGES = ("torch", "transformers")
DISTRIBUTIONS = ("torch", "transformers")
DTYPES = ("bf16", "fp32", "fp16")
HEADS = ("sequence_classification",)


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The classifier in `dtype`; its first passes are slow, because they compile."""
    torch: Any = importlib.import_module("torch")
    model = load_classifier(folder, dtype, threads, options)
    pad_id = pad_id_of(model, options)
    compiled = torch.compile(model, dynamic=True)

    settings = f"{dtype}, sdpa attention (eager with a softcap), torch.compile(dynamic=True)"
    logits = padded_logits(compiled, model, options)
    return PaddedScorer(logits, batch=options.batch, pad_id=pad_id, precision=dtype, settings=settings)
