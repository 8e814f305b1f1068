"""Loads a sequence classifier of transformers for the peers that run torch, and computes its scores."""

import importlib
from collections.abc import Callable
from typing import Any

from rmexport.bench.worker.padded import Rows
from rmexport.bench.worker.scorer import LoadOptions

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def load_classifier(folder: str, dtype: str, threads: int, options: LoadOptions) -> Any:
    """The classifier in the checkpoint `folder`, in `dtype`, in evaluation mode; `threads` 0 is torch's own choice."""
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
    """The id of the checkpoint's pad token, which decides the token that is scored.

    Where it has none, the model gets `options.spare_id`, which occurs in no sequence.

    >>> from types import SimpleNamespace
    >>> pad_id_of(SimpleNamespace(config=SimpleNamespace(pad_token_id=None)), LoadOptions(spare_id=7))
    7
    """
    if model.config.pad_token_id is None:
        model.config.pad_token_id = options.spare_id
    return int(model.config.pad_token_id)


def padded_logits(forward: Any, model: Any, options: LoadOptions) -> Callable[[Rows, Rows], list[float]]:
    """A function from ids and mask, both [rows, width], to the score's logit of every row.

    `forward` computes it: `model` itself, or the compiled model.
    """
    torch: Any = importlib.import_module("torch")

    def logits(ids: Rows, mask: Rows) -> list[float]:
        with torch.inference_mode():
            rows = torch.tensor(ids, device=model.device), torch.tensor(mask, device=model.device)
            found = forward(rows[0], attention_mask=rows[1], use_cache=False).logits[:, options.label]
        return [float(value) for value in found.float().tolist()]

    return logits
