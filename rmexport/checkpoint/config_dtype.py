"""The dtype that a config.json states, in either spelling; the tensors themselves may have another."""

from collections.abc import Mapping
from typing import Any

_NAMES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32", "float64": "fp64"}


def stated_dtype(raw: Mapping[str, Any]) -> str | None:
    """`dtype` (new) or `torch_dtype` (old) as bf16, fp16, fp32 or fp64; None when it is absent or none of these."""
    stated = raw.get("dtype") or raw.get("torch_dtype")
    return _NAMES.get(str(stated).removeprefix("torch."))
