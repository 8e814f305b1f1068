"""Reads every weight once and reports NaN and infinities."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from rmexport.checkpoint.checkpoint import Checkpoint
from rmexport.checkpoint.finite import FLOATS, Unstorable, fits


@dataclass(frozen=True)
class WeightFault:
    """`count` values of a tensor are NaN, or infinite."""

    tensor: str
    kind: Literal["NaN", "Inf"]
    count: int


def check_weights(checkpoint: Checkpoint, advance: Callable[[int], None] | None = None) -> list[WeightFault]:
    """Every NaN and Inf among the checkpoint's floating-point weights, by tensor; empty when all are finite.

    `advance` is called with the bytes of each tensor that was read. Raises CheckpointError when one cannot be read.
    """
    names = [name for name, info in checkpoint.tensors.items() if info.dtype in FLOATS]
    faults: list[WeightFault] = []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name, found in zip(names, pool.map(lambda name: _count(checkpoint, name), names), strict=True):
            counts: tuple[tuple[Literal["NaN", "Inf"], int], ...] = (("NaN", found.nan), ("Inf", found.inf))
            faults += [WeightFault(name, kind, count) for kind, count in counts if count]
            if advance is not None:
                advance(checkpoint.tensors[name].nbytes)
    return faults


def _count(checkpoint: Checkpoint, name: str) -> Unstorable:
    found, dtype = Unstorable(), checkpoint.tensors[name].dtype
    for chunk in checkpoint.chunks(name):
        if not fits(chunk, dtype):
            found.add(chunk, dtype)
    return found
