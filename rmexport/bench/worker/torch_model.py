"""A sequence classifier of transformers, loaded as the peers that run torch want it."""

import importlib
from collections.abc import Callable
from typing import Any

from rmexport.bench.worker.padded import Rows
from rmexport.bench.worker.scorer import LoadOptions

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load_classifier(folder: str, dtype: str, threads: int, options: LoadOptions) -> Any:
    """The model in evaluation mode; `threads` 0 leaves torch's own choice."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    if threads:
        torch.set_num_threads(threads)
    softcap = getattr(transformers.AutoConfig.from_pretrained(folder), "attn_logit_softcapping", None)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=getattr(torch, TORCH_NAMES[dtype]),
        attn_implementation="eager" if softcap else "sdpa",  # transformers' sdpa has no softcap
    )
    return model.to(options.device).eval()


def pad_id_of(model: Any, options: LoadOptions) -> int:
    """The checkpoint's pad token, which decides the token that is scored; one that occurs nowhere where it has none."""
    if model.config.pad_token_id is None:
        model.config.pad_token_id = options.spare_id
    return int(model.config.pad_token_id)


def padded_logits(forward: Any, model: Any, options: LoadOptions) -> Callable[[Rows, Rows], list[float]]:
    """The score's logit of every padded row, by `forward`: `model` itself or what was made of it."""
    torch: Any = importlib.import_module("torch")

    def logits(ids: Rows, mask: Rows) -> list[float]:
        with torch.inference_mode():
            rows = torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)
            found = forward(rows[0], attention_mask=rows[1], use_cache=False).logits[:, options.label]
        return [float(value) for value in found.float().tolist()]

    return logits
