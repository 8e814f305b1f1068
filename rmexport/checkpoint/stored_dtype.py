"""The dtype of a bundle's weights: that of the checkpoint's tensors, which config.json may state wrongly."""

from collections import Counter
from typing import get_args

from rmexport.errors import CheckpointError
from rmexport.options import Dtype, ExportOptions


def choose_dtype(held: Counter[str], options: ExportOptions) -> str:
    """The asked-for dtype, or the one that holds most bytes on disk (config's may be stale); `held` has bytes by dtype.

    Raises CheckpointError for weights in anything but floats.
    """
    storable = get_args(Dtype)
    if foreign := sorted(set(held) - set(storable)):
        raise CheckpointError(
            f"backbone weights are stored as {', '.join(foreign)}; expected {', '.join(storable)} "
            "(quantized checkpoints must be dequantized first)"
        )
    return options.dtype if options.dtype != "auto" else held.most_common(1)[0][0]
