"""Shows a difference as text for people, or as data for JSON."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rmexport.diff.comparison import Difference, TensorDifference
from rmexport.diff.operand import Operand

_SHOWN = 60  # characters of a setting's value


def facts(found: Difference) -> dict[str, Any]:
    """The whole difference as data that is ready for JSON.

    >>> from types import SimpleNamespace
    >>> a = SimpleNamespace(path="a", kind="bundle", repo=None, revision=None)
    >>> none = dict.fromkeys(("settings", "files", "only_a", "only_b", "tensors"), ())
    >>> facts(Difference(a=a, b=a, settings_compared=True, same=9, unread=0, **none))["same"]
    True
    """
    return {
        "same": not found.differs,
        "a": _operand_facts(found.a),
        "b": _operand_facts(found.b),
        "settings_compared": found.settings_compared,
        "settings": [asdict(setting) for setting in found.settings],
        "files": [asdict(file) for file in found.files],
        "tensors_only_in_a": list(found.only_a),
        "tensors_only_in_b": list(found.only_b),
        "tensors_that_differ": [_tensor_facts(tensor) for tensor in found.tensors],
        "tensors_the_same": found.same,
        "tensors_not_read": found.unread,
    }


def _operand_facts(operand: Operand) -> dict[str, Any]:
    return {"path": str(operand.path), "kind": operand.kind, "repo": operand.repo, "revision": operand.revision}


def _tensor_facts(tensor: TensorDifference) -> dict[str, Any]:
    values = tensor.values
    numbers = values and {
        "elements": values.elements,
        "not_finite": values.not_finite,
        "max_abs": values.max_abs,
        "relative": values.relative if math.isfinite(values.relative) else None,
    }
    shapes = [list(shape) for shape in tensor.shapes]
    return {"name": tensor.name, "shapes": shapes, "dtypes": list(tensor.dtypes), "values": numbers}


def text(found: Difference) -> str:
    """The difference as lines of text; tensors that differ most come first.

    >>> from types import SimpleNamespace
    >>> a = SimpleNamespace(path="a", kind="bundle", repo=None, revision=None)
    >>> none = dict.fromkeys(("settings", "files", "only_a", "only_b", "tensors"), ())
    >>> text(Difference(a=a, b=a, settings_compared=True, same=9, unread=0, **none)).splitlines()[-1]
    'tensors: 9 the same (0 of them known to be, not read), 0 differ'
    """
    return "\n".join(_lines(found))


def _lines(found: Difference) -> Iterator[str]:
    yield from (_operand_line(name, operand) for name, operand in (("A", found.a), ("B", found.b)))
    if not found.settings_compared:
        yield "a bundle and a checkpoint: their tensors are compared, not their settings and files"
    elif not found.settings and not found.files:
        yield "settings and files: the same"
    for setting in found.settings:
        yield f"{setting.name}: {_shown(setting.a)} -> {_shown(setting.b)}"
    yield from (f"{file.name}: {_how(file.how)}" for file in found.files)
    yield from (f"{name}: tensor only in A" for name in found.only_a)
    yield from (f"{name}: tensor only in B" for name in found.only_b)
    yield f"tensors: {found.same} the same ({found.unread} of them known to be, not read), {len(found.tensors)} differ"
    if found.tensors:
        yield from _table([_HEADINGS, *map(_row, sorted(found.tensors, key=_weight, reverse=True))])


def _operand_line(name: str, operand: Operand) -> str:
    origin = f", {operand.repo or 'no repository'} at {operand.revision}" if operand.revision else ""
    return f"{name}: {operand.path} ({operand.kind}{origin})"


def _shown(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= _SHOWN else f"{said[:_SHOWN]}..."


def _how(how: str) -> str:
    return "its content differs" if how == "content" else f"file {how}"


def _weight(tensor: TensorDifference) -> float:
    return math.inf if tensor.values is None else tensor.values.relative


_HEADINGS = ("tensor", "shape", "dtype", "elements that differ", "max |A - B|", "|A - B| / |A|")


def _row(tensor: TensorDifference) -> tuple[str, ...]:
    (x, y), (held, other), values = tensor.shapes, tensor.dtypes, tensor.values
    shape = str(list(x)) if x == y else f"{list(x)} -> {list(y)}"
    dtype = held if held == other else f"{held} -> {other}"
    if values is None:
        return tensor.name, shape, dtype, "-", "-", "-"
    counted = f"{values.elements:,} of {math.prod(x):,}"
    counted += f" ({values.not_finite:,} NaN or Inf)" if values.not_finite else ""
    return tensor.name, shape, dtype, counted, f"{values.max_abs:.3g}", f"{values.relative:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
