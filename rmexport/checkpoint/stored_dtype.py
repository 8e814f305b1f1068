"""The dtype of a bundle's weights: that of the checkpoint's tensors, which config.json may state wrongly."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rmexport.errors import CheckpointError
from rmexport.options import ExportOptions

FLOAT_DTYPES = ("bf16", "fp16", "fp32")
_NAMES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32", "float64": "fp64"}


def stated_dtype(raw: Mapping[str, Any]) -> str | None:
    """`dtype` (new) or `torch_dtype` (old) as bf16, fp16, fp32 or fp64; None when it is absent or none of these."""
    stated = raw.get("dtype") or raw.get("torch_dtype")
    return _NAMES.get(str(stated).removeprefix("torch."))


def choose_dtype(held: Counter[str], options: ExportOptions) -> str:
    """The asked-for dtype, or the one that holds most bytes on disk (config's may be stale); `held` has bytes by dtype.

    Raises CheckpointError for weights in anything but floats.
    """
    if foreign := sorted(set(held) - set(FLOAT_DTYPES)):
        raise CheckpointError(
            f"backbone weights are stored as {', '.join(foreign)}; expected {', '.join(FLOAT_DTYPES)} "
            "(quantized checkpoints must be dequantized first)"
        )
    return options.dtype if options.dtype != "auto" else held.most_common(1)[0][0]
