"""The one writer of safetensors headers; `rmruntime.bundle.safetensors_header` reads them."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from rmruntime.bundle.safetensors_header import DTYPES, ITEM_BYTES, LENGTH_BYTES, TensorEntry

_ALIGNMENT = 64  # bytes
_SAFETENSORS_NAMES = {ours: theirs for theirs, (ours, _) in DTYPES.items()}


@dataclass(frozen=True)
class Layout:
    """A file that is not written yet: its first bytes, and where each tensor lies, in the file's order."""

    header: bytes
    entries: Mapping[str, TensorEntry]


def byte_size(dtype: str, shape: tuple[int, ...]) -> int:
    """Size of a stored tensor in bytes.

    >>> byte_size("bf16", (4096, 1024))
    8388608
    """
    return ITEM_BYTES[dtype] * math.prod(shape)


def lay_out(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Layout:
    """The safetensors file that holds `tensors`, by name the dtype (our name) and shape of each.

    >>> layout = lay_out({"score.weight": ("fp32", (1, 64))})
    >>> layout.entries["score.weight"].shape, len(layout.header)
    ((1, 64), 128)
    """
    sizes = {name: byte_size(*tensor) for name, tensor in tensors.items()}

    def alignment(name: str) -> int:
        return ITEM_BYTES[tensors[name][0]] if sizes[name] % _ALIGNMENT else _ALIGNMENT

    # Tensors follow one another without holes, so those that would misalign their successors come last.
    order = sorted(tensors, key=alignment, reverse=True)
    begins, at = {}, 0
    for name in order:
        begins[name] = at
        at += sizes[name]
    header = _header({name: _described(*tensors[name], begins[name]) for name in order})
    start = len(header)
    entries = {
        name: TensorEntry(*tensors[name], start + begins[name], start + begins[name] + sizes[name]) for name in order
    }
    return Layout(header, entries)


def _described(dtype: str, shape: tuple[int, ...], begin: int) -> dict[str, object]:
    offsets = [begin, begin + byte_size(dtype, shape)]
    return {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": offsets}


def _header(tensors: Mapping[str, object]) -> bytes:
    entries = {"__metadata__": {"format": "pt"}, **tensors}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text
