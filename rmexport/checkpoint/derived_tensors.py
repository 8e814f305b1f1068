"""Describes weights of a bundle that are made from other tensors of the checkpoint: renamed, rows, or stacked."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class TensorAlias:
    """A weight that the checkpoint has under another name."""

    source: str


@dataclass(frozen=True, kw_only=True)
class TensorRows:
    """A weight made of some rows of a checkpoint tensor, in this order."""

    source: str
    rows: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TensorStack:
    """A weight made of checkpoint tensors of equal shape, stacked along a new first axis."""

    sources: tuple[str, ...]


Derived = TensorAlias | TensorRows | TensorStack


def sources_of(derived: Derived) -> tuple[str, ...]:
    """The names of the checkpoint's tensors that a derived weight is made from.

    >>> sources_of(TensorStack(sources=("experts.0.w1.weight", "experts.1.w1.weight")))
    ('experts.0.w1.weight', 'experts.1.w1.weight')
    """
    return derived.sources if isinstance(derived, TensorStack) else (derived.source,)


def renamed(derived: Derived, prefixes: Mapping[str, str]) -> Derived:
    """`derived`, made from tensors whose prefixes are replaced as in `rename`.

    >>> renamed(TensorAlias(source="model.embed_tokens.weight"), {"model.": "backbone."})
    TensorAlias(source='backbone.embed_tokens.weight')
    """
    if isinstance(derived, TensorStack):
        return TensorStack(sources=tuple(rename(name, prefixes) for name in derived.sources))
    return replace(derived, source=rename(derived.source, prefixes))


def rename(name: str, prefixes: Mapping[str, str]) -> str:
    """`name` with its prefix replaced, where `prefixes` maps that to another.

    >>> rename("model.norm.weight", {"model.": "transformer."})
    'transformer.norm.weight'
    """
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def found_prefix(name: str, tensors: Collection[str]) -> dict[str, str]:
    """The prefix of `name`, mapped to the one with which `tensors` has it; {} where it has `name`, or nothing fits.

    Needed because classes have different names for their backbone ("transformer.", "language_model.model.", or none).

    >>> found_prefix("model.norm.weight", {"transformer.norm.weight"})
    {'model.': 'transformer.'}
    """
    if name in tensors:
        return {}
    prefix, leaf = re.fullmatch(r"(.*?)([^.]+\.[^.]+)", name).groups()  # type: ignore[union-attr] # names have a dot
    found = [tensor for tensor in tensors if tensor == leaf or tensor.endswith(f".{leaf}")]
    return {prefix: found[0].removesuffix(leaf)} if len(found) == 1 else {}
