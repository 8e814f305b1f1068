"""Compares two bundles or checkpoints: settings, small files, and tensors unless hashes show that they are the same."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rmexport.diff.operand import Operand, graph_digest, open_operand
from rmexport.diff.values import ValueDifference, compare_values
from rmexport.errors import OptionError
from rmexport.weights import Progress
from rmexport.weights.quantization import SCALE_SUFFIX
from rmruntime.option_checks import check_fields


@dataclass(frozen=True, kw_only=True)
class DiffOptions:
    """Options of `rmexport diff`: the revisions of A and B, for checkpoints from the Hub or its cache.

    >>> DiffOptions(revision_a="main").revision_b is None
    True
    """

    revision_a: str | None = None
    revision_b: str | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is not a text."""
        check_fields(self, {}, error=OptionError)


_WORKERS = 4  # threads at most; each has a megabyte of either tensor in memory
_MISSING = "(none)"


@dataclass(frozen=True, kw_only=True)
class SettingDifference:
    """A setting that differs: its path, such as positions.score.rule, and both values; "(none)" for a missing one."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, kw_only=True)
class FileDifference:
    """A graph, a tokenizer's file or a template that differs. `how` is "content", "only in A" or "only in B"."""

    name: str
    how: str


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """A tensor that both have and that differs. `values` has no differing elements where only the dtypes differ.

    It is None where values cannot be compared: the shapes differ, or only one tensor is quantized.
    """

    name: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    values: ValueDifference | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The result of a comparison. `same` counts tensors that are the same, `unread` those known to be without reading.

    The latter are in files with the same hash, or in one file. `settings_compared` is False between a bundle and a
    checkpoint, whose settings and files cannot be compared.
    """

    a: Operand
    b: Operand
    settings_compared: bool
    settings: tuple[SettingDifference, ...]
    files: tuple[FileDifference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    tensors: tuple[TensorDifference, ...]
    same: int
    unread: int

    @property
    def differs(self) -> bool:
        """Whether anything differs."""
        return bool(self.settings or self.files or self.only_a or self.only_b or self.tensors)


def diff(a: str, b: str, options: DiffOptions | None = None, progress: Progress | None = None) -> Difference:
    """Compare two bundles or checkpoints (folders or Hub ids).

    Takes a few megabytes of memory. `progress` is called with (bytes done, bytes in total) while tensors are read, from
    worker threads, but never from two at once. Raises BundleError, CheckpointError or OptionError.
    """
    options = options or DiffOptions()
    left, right = open_operand(a, options.revision_a), open_operand(b, options.revision_b)
    alike = left.kind == right.kind
    both = [name for name in left.tensors if name in right.tensors]
    unread = {name for name in both if left.holds_same_file(left.tensors[name], right, right.tensors[name])}
    found = _compare(left, right, [name for name in both if name not in unread], progress)
    return Difference(
        a=left,
        b=right,
        settings_compared=alike,
        settings=tuple(_setting_differences(left.settings, right.settings)) if alike else (),
        files=tuple(_file_differences(left, right)) if alike else (),
        only_a=tuple(name for name in left.tensors if name not in right.tensors),
        only_b=tuple(name for name in right.tensors if name not in left.tensors),
        tensors=found,
        same=len(both) - len(found),
        unread=len(unread),
    )


def _setting_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[SettingDifference]:
    left, right = dict(_flat(a)), dict(_flat(b))
    for name in {**left, **right}:
        x, y = left.get(name, _MISSING), right.get(name, _MISSING)
        if x != y or type(x) is not type(y):
            yield SettingDifference(name=name, a=x, b=y)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every value inside nested objects and lists, by its path; empty ones count as values."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f"{name}[{i}]")
    else:
        yield name, list(value) if isinstance(value, tuple) else value


def _file_differences(a: Operand, b: Operand) -> Iterator[FileDifference]:
    for name in {**a.files, **b.files}:
        if name not in b.files or name not in a.files:
            yield FileDifference(name=name, how="only in A" if name in a.files else "only in B")
        elif a.files[name] != b.files[name] and not _is_same_graph(a, b, name):
            yield FileDifference(name=name, how="content")


def _is_same_graph(a: Operand, b: Operand, name: str) -> bool:
    graphs = name in a.graphs and name in b.graphs
    return graphs and graph_digest(a.path / name) == graph_digest(b.path / name)


def _compare(a: Operand, b: Operand, names: Sequence[str], progress: Progress | None) -> tuple[TensorDifference, ...]:
    """The tensors among `names` that differ, in their order in A's files."""
    ordered = sorted(names, key=lambda name: (a.tensors[name].file, a.tensors[name].offset or 0))
    readable = [name for name in ordered if _is_comparable(a, b, name)]
    counter = _Counter(sum(a.tensors[name].nbytes + b.tensors[name].nbytes for name in readable), progress)
    stop = threading.Event()
    with ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(_compare_one, a, b, name, stop, counter) for name in ordered]
        try:
            found = [future.result() for future in futures]
        finally:  # also after an interrupt, while the workers are still running
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return tuple(difference for difference in found if difference is not None)


def _compare_one(
    a: Operand, b: Operand, name: str, stop: threading.Event, counter: "_Counter"
) -> TensorDifference | None:
    x, y = a.tensors[name], b.tensors[name]
    values = compare_values((a.reader, x), (b.reader, y), stop, counter.advance) if _is_comparable(a, b, name) else None
    if values is not None and not values.elements and x.dtype == y.dtype:
        return None
    return TensorDifference(name=name, shapes=(x.shape, y.shape), dtypes=(x.dtype, y.dtype), values=values)


def _is_comparable(a: Operand, b: Operand, name: str) -> bool:
    """Whether both tensors have the same shape, and both or neither are quantized."""
    quantized = [name + SCALE_SUFFIX in operand.tensors for operand in (a, b)]
    return a.tensors[name].shape == b.tensors[name].shape and quantized[0] == quantized[1]


class _Counter:
    """Adds up the bytes that several threads have read."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total, self._progress, self._done = total, progress, 0
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progress is not None:
                self._progress(self._done, self._total)
