"""Checks that a checkpoint holds exactly the tensors that its graph reads, and says every difference at once."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from re import Pattern

from rmexport.checkpoint import TensorInfo
from rmexport.checkpoint.derived_tensors import Derived, TensorAlias, TensorRows, sources_of
from rmexport.errors import CheckpointError
from rmexport.weights.weight_spec import WeightRequest

SHOWN = 20  # of each kind of fault: an 80-layer model can miss thousands
_LOST_LAYERS = 16  # more than an incomplete download lacks; so few are told tensor by tensor


def check_layers(layers: int, embedding: str, tensors: Collection[str]) -> None:
    """Raise CheckpointError for a config of many more layers than the tensors name, before graphs of them are built.

    `embedding` is the checkpoint's name of that weight, beside which the layers are.
    """
    stem = embedding.removesuffix(".".join(embedding.split(".")[-2:])) + "layers."
    named = {name.removeprefix(stem).partition(".")[0] for name in tensors if name.startswith(stem)}
    if layers > len(named) + _LOST_LAYERS:
        raise CheckpointError(
            f"config.json: num_hidden_layers is {layers}, and the tensors are those of {len(named)} layers "
            f"({stem}0 ...); does config.json belong to these weights?"
        )


def check_binding(
    requests: Mapping[str, WeightRequest],
    tensors: Mapping[str, TensorInfo],
    made: Mapping[str, Derived],
    ignored: Sequence[Pattern[str]],
    *,
    heads: Collection[str] = (),
) -> None:
    """Raise CheckpointError listing missing, unexpected and wrongly shaped tensors; `made` has every request.

    `heads` are tensors that could be the head: an unexpected one of these may be the one that is meant.
    """
    sources = {source for parts in made.values() for source in sources_of(parts)}
    missing = sorted(sources - set(tensors))
    unexpected = sorted(name for name in set(tensors) - sources if not _matches(name, ignored))
    shapes = [fault for name, parts in made.items() if (fault := _wrong_parts(requests[name], parts, tensors))]
    shapes += _left_rows(made, tensors, [name for name in tensors if _matches(name, ignored)])
    faults = [
        _listed("missing tensors", missing),
        _listed("unexpected tensors", unexpected),
        _listed("wrong shapes", shapes),
    ]
    if found := [fault for fault in faults if fault]:
        raise CheckpointError(
            "the checkpoint's tensors are not what its config.json implies.\n"
            + "\n".join(found)
            + "\nCheck that config.json belongs to these weights and that the download is complete."
            + _other_heads([name for name in unexpected if name in heads])
        )


def _other_heads(names: Sequence[str]) -> str:
    if not names:
        return ""
    return (
        f" By shape {' and '.join(names[:SHOWN])} could be the head too: where it is, or is to be left out, name the "
        f'head in a recipe, such as "head_tensor": "{names[0]}".'
    )


def _wrong_parts(request: WeightRequest, made: Derived, tensors: Mapping[str, TensorInfo]) -> str | None:
    """The first tensor that a weight cannot be made of."""
    expected = request.shape if isinstance(made, TensorAlias) else request.shape[1:]
    for source in sources_of(made):
        found = tensors[source].shape if source in tensors else None
        if found is None:
            return None  # told as missing
        if (found[1:] if isinstance(made, TensorRows) else found) != expected:
            if source == request.name:
                return f"{source} is {list(found)}, the config implies {list(request.shape)}"
            return f"{source} is {list(found)}, which cannot give {request.name} {list(request.shape)}"
        if isinstance(made, TensorRows) and max(made.rows) >= found[0]:
            return f"{source} is {list(found)}, row {max(made.rows)} is needed"
        if isinstance(made, TensorRows) and len(made.rows) != request.shape[0]:
            return f"{request.name} is {len(made.rows)} rows of {source}, the config implies {list(request.shape)}"
    return None


def _left_rows(
    made: Mapping[str, Derived], tensors: Mapping[str, TensorInfo], ignored: Collection[str]
) -> Iterator[str]:
    """Fused projections with rows that nothing reads, and that are not knowingly left out."""
    read: dict[str, list[tuple[int, ...]]] = {}
    whole = {*ignored, *(parts.source for parts in made.values() if isinstance(parts, TensorAlias))}
    for parts in made.values():
        if isinstance(parts, TensorRows) and parts.source not in whole:
            read.setdefault(parts.source, []).append(parts.rows)
    counts: dict[tuple[int, ...], int] = {}  # by the parts' identities, which are those of every layer
    for source, taken in read.items():
        key = tuple(map(id, taken))
        if key not in counts:
            counts[key] = len(set().union(*taken))
        if source in tensors and counts[key] < tensors[source].shape[0]:
            yield f"{source} is {list(tensors[source].shape)}, the config implies {counts[key]} rows"


def _matches(name: str, patterns: Sequence[Pattern[str]]) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)


def _listed(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    more = f"\n  ... and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{title} ({len(items)}):\n  " + "\n  ".join(items[:SHOWN]) + more
