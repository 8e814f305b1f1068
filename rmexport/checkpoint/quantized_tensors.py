"""Recognises quantized checkpoints by their tensors, because many a config.json does not mention it."""

import re
from collections.abc import Mapping
from typing import Any

from rmexport.checkpoint.finite import FLOATS
from rmexport.checkpoint.tensors import TensorInfo
from rmexport.errors import CheckpointError
from rmruntime.errors import listing

# Suffixes of the tensors that each method stores beside or in place of a weight; the first that is found decides.
_METHODS: Mapping[str, str] = {
    "GPTQ": r".*\.g_idx",
    "AWQ or GPTQ": r".*\.(qweight|qzeros)",
    "bitsandbytes": r".*\.(SCB|absmax|nested_absmax|quant_map|nested_quant_map|weight_format|quant_state\..+)",
    "compressed-tensors": r".*\.(weight_packed|weight_zero_point|weight_shape)",
    "fp8": r".*\.(weight_scale_inv|weight_scale|input_scale|activation_scale|weight_scale_2)",
    "HQQ": r".*\.W_q",
    "AQLM": r".*\.(codebooks|codes)",
    "quanto": r".*\.weight\._(data|scale|shift|zeropoint)",
}


def refuse_quantized(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Raises CheckpointError for a quantized checkpoint, which states how it is stored.

    A quantization_config beside plain weights is left over, and is ignored.
    """
    stated = bool(config.get("quantization_config"))
    found = _method(tensors)
    if found is None:
        foreign = sorted({info.dtype for info in tensors.values()} - set(FLOATS))
        if not stated or not foreign:
            return
        found = f"tensors are {', '.join(foreign)}", sorted(n for n, t in tensors.items() if t.dtype in foreign)
    method, names = found
    shown = listing(names, most=4)
    said = "config.json has quantization_config" if stated else "though config.json has no quantization_config"
    raise CheckpointError(
        f"the checkpoint is quantized: {method}, by {shown}; {said}. Export the unquantized original, or dequantize it "
        "first"
    )


def _method(tensors: Mapping[str, TensorInfo]) -> tuple[str, list[str]] | None:
    """The name of the quantization method, and the tensors that show it; None for plain weights."""
    for method, pattern in _METHODS.items():
        if names := sorted(name for name in tensors if re.fullmatch(pattern, name)):
            return method, names
    for method, kinds in (("fp8", ("fp8",)), ("integers for weights", ("int", "uint"))):
        names = sorted(n for n, t in tensors.items() if t.dtype.startswith(kinds) and _is_matrix(n, t))
        if names:
            return method, names
    return None


def _is_matrix(name: str, info: TensorInfo) -> bool:
    return name.endswith(".weight") and len(info.shape) == 2
