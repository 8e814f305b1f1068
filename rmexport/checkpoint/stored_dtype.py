"""Chooses the dtype of a bundle's weights: that of the checkpoint's tensors, because config.json may be wrong."""

from collections import Counter
from typing import get_args

from rmexport.errors import CheckpointError
from rmexport.options import Dtype, ExportOptions


def choose_dtype(held: Counter[str], options: ExportOptions) -> str:
    """The dtype of `options`, or for "auto" the one with most bytes; `held` are the checkpoint's bytes by dtype.

    Raises CheckpointError for weights that are not floats.

    >>> choose_dtype(Counter(bf16=4000, fp32=16), ExportOptions())
    'bf16'
    """
    storable = get_args(Dtype)
    if foreign := sorted(set(held) - set(storable)):
        raise CheckpointError(
            f"backbone weights are stored as {', '.join(foreign)}; expected {', '.join(storable)} "
            "(quantized checkpoints must be dequantized first)"
        )
    return options.dtype if options.dtype != "auto" else held.most_common(1)[0][0]
