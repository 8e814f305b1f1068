"""transformers in bf16: sdpa or FlashAttention-2, as it is or under torch.compile, in sorted and padded batches.

`extra` names the `attention` (sdpa, flash_attention_2) and the mode of torch.compile (`compile`: none, "dynamic" for
dynamic shapes, else a mode's name). The loaded model is kept between loads, so that several batch sizes can be tried.
"""

import importlib
from typing import Any

from rmexport.bench.worker.padded import PaddedScorer
from rmexport.bench.worker.scorer import LoadOptions, Scorer
from rmexport.bench.worker.torch_model import TORCH_NAMES, pad_id_of, padded_logits

NAME = "torch-classifier"
PACKAGES = ("torch", "transformers")
DISTRIBUTIONS = ("torch", "transformers", "flash-attn", "triton")
DTYPES = ("bf16", "fp16", "fp32")
HEADS = ("sequence_classification",)
_loaded: dict[tuple[str, str, str, str], tuple[Any, Any]] = {}


def load(folder: str, dtype: str, threads: int, options: LoadOptions) -> Scorer:
    """The classifier in `dtype` on `options.device`."""
    attention = str(options.extra.get("attention", "sdpa"))
    compiled = str(options.extra.get("compile", ""))
    key = folder, dtype, attention, compiled
    if key not in _loaded:
        _loaded[key] = _load(folder, dtype, attention, compiled, options.device)
    model, forward = _loaded[key]
    settings = f"{dtype}, {attention} attention" + (f", torch.compile {compiled}" if compiled else "")
    return PaddedScorer(
        padded_logits(forward, model, options), batch=options.batch, pad_id=pad_id_of(model, options), precision=dtype,
        settings=settings,
    )  # fmt: skip


def _load(folder: str, dtype: str, attention: str, compiled: str, device: str) -> tuple[Any, Any]:
    """The model, and what to call: itself or what torch.compile made of it."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=getattr(torch, TORCH_NAMES[dtype]), attn_implementation=attention
    )
    model = model.to(device).eval()
    if not compiled:
        return model, model
    if compiled == "dynamic":
        return model, torch.compile(model, dynamic=True)
    return model, torch.compile(model, mode=compiled)
