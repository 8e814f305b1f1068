"""Reads rotary embedding parameters from config.json, in the spelling of any transformers version.

New: `rope_parameters` {rope_type, rope_theta, ...}. Old: `rope_theta` beside `rope_scaling` {type or rope_type, ...}.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexport.checkpoint.config_fields import FACTOR, LENGTH, ROPE_BASE, Range, section, shown
from rmexport.errors import CheckpointError, UnsupportedModel

# kind -> the parameters that it requires
KINDS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "longrope": ("original_max_position_embeddings",),
}
_ALIASES = {"su": "longrope"}  # what Phi-3's first releases called it
BY_LENGTH = ("dynamic", "longrope")  # kinds whose frequencies depend on a sequence's length

_ORIGINAL = "original_max_position_embeddings"
# name in config.json -> its range; RopeConfig has the same names except for rope_theta
_NUMBERS: Mapping[str, Range] = {
    "rope_theta": ROPE_BASE,
    "factor": FACTOR,
    "low_freq_factor": FACTOR,
    "high_freq_factor": FACTOR,
    _ORIGINAL: Range(2, LENGTH.most),  # formulas divide by its logarithm
    "beta_fast": FACTOR,
    "beta_slow": FACTOR,
    "mscale": FACTOR,
    "mscale_all_dim": FACTOR,
    "attention_factor": FACTOR,
}


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """One form for all spellings; None where a kind has no such parameter or leaves it to the formula.

    `theta` is the base. Lengths are in tokens, everything else is a plain factor. `partial` is the share of each head
    that is rotated. `short_factors` and `long_factors` divide the frequencies of sequences up to and beyond the
    original length. `query_scaling` is the factor by which queries grow with the logarithm of their position, in units
    of the original length (Llama 4, Ministral 3); families that have it set it.
    """

    kind: str
    theta: float
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_position_embeddings: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    attention_factor: float | None = None
    truncate: bool = True
    partial: float = 1.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    query_scaling: float | None = None

    @property
    def switch_length(self) -> int | None:
        """The number of tokens beyond which frequencies depend on the sequence's length; None where they never do."""
        return self.original_max_position_embeddings if self.kind in BY_LENGTH else None


def read_rope(
    raw: Mapping[str, Any],
    *,
    layer_type: str | None = None,
    default_theta: float = 10_000.0,
    partial: bool = False,
) -> RopeConfig:
    """The rotary parameters of a parsed config.json.

    `layer_type` chooses where they differ by kind of layer ("full_attention", "sliding_attention"); `partial` says that
    the family can rotate a part of each head. Raises UnsupportedModel for a kind without a formula here,
    CheckpointError for missing or mistyped values.

    >>> rope = read_rope({"rope_theta": 500000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}})
    >>> rope.kind, rope.theta, rope.factor
    ('linear', 500000.0, 4.0)
    """
    found = _parameters(raw, layer_type)
    kind = found.get("rope_type") or found.get("type") or "default"
    kind = _ALIASES.get(kind, kind) if isinstance(kind, str) else kind
    share = _share(found, raw)
    _refuse_unsupported(kind, 1.0 if partial else share)
    stated = {name: v for part in (_beside(raw), found) for name, v in part.items() if v is not None}
    values = {"rope_theta": default_theta, **stated, **_lengths(raw, kind, stated)}
    numbers = {name: value for name, value in values.items() if name in _NUMBERS and not _is_absent(name, value)}
    faults = _faults(kind, numbers)
    if not isinstance(truncate := values.get("truncate", True), bool):
        faults.append(f"truncate is {shown(truncate)}, expected true or false")
    if faults:
        raise CheckpointError(
            f"config.json, rotary parameters of kind {kind!r}: {'; '.join(faults)}. Restore the original"
        )
    length = numbers.pop(_ORIGINAL, None)
    floats = {name.removeprefix("rope_"): float(value) for name, value in numbers.items()}
    return RopeConfig(
        kind=kind,
        truncate=truncate,
        original_max_position_embeddings=length,
        partial=share,
        short_factors=_length_factors(found, kind, "short_factor"),
        long_factors=_length_factors(found, kind, "long_factor"),
        **floats,
    )


def _is_absent(name: str, value: Any) -> bool:
    """0 stands for "not given", as in transformers' formulas, except for the base; false does not."""
    return value is None or (value == 0 and not isinstance(value, bool) and name != "rope_theta")


def _faults(kind: str, numbers: Mapping[str, Any]) -> list[str]:
    faults = [
        f"{name} is {shown(value)}, expected a number {_NUMBERS[name]}"
        for name, value in numbers.items()
        if not _NUMBERS[name].holds(value) or (name == _ORIGINAL and not isinstance(value, int))
    ]
    faults += [f"{name} is missing" for name in KINDS[kind] if name not in numbers]
    low, high = numbers.get("low_freq_factor"), numbers.get("high_freq_factor")
    if not faults and kind == "llama3" and low is not None and high is not None and low >= high:
        faults.append(f"high_freq_factor is {high}, expected more than low_freq_factor, {low}")
    return faults


def _length_factors(found: Mapping[str, Any], kind: str, name: str) -> tuple[float, ...]:
    if kind != "longrope":
        return ()
    values = found.get(name)
    if not isinstance(values, list) or not all(map(FACTOR.holds, values)):
        raise CheckpointError(
            f"config.json: {name} is {shown(values)}, expected a list of numbers {FACTOR}; restore the original"
        )
    return tuple(map(float, values))


def _share(found: Mapping[str, Any], raw: Mapping[str, Any]) -> float:
    """The share of each head that is rotated, 1.0 where config.json has none."""
    share = found.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    if share is None:
        return 1.0
    if not Range(1e-3, 1).holds(share):
        raise CheckpointError(
            f"config.json: partial_rotary_factor is {shown(share)}, expected a number above 0 and up to 1; restore "
            "the original"
        )
    return float(share)


def _refuse_unsupported(kind: Any, partial: float) -> None:
    if kind not in tuple(KINDS):  # whatever JSON type it is
        raise UnsupportedModel(f"config.json has rope type {shown(kind)}, known are {', '.join(KINDS)}")
    if partial != 1.0:
        raise UnsupportedModel(
            f"config.json has partial_rotary_factor {partial!r}, only whole heads (1.0) are supported"
        )


def _parameters(raw: Mapping[str, Any], layer_type: str | None) -> Mapping[str, Any]:
    """transformers' own order: a truthy `rope_scaling` wins over `rope_parameters`."""
    found = section(raw, "rope_scaling") or section(raw, "rope_parameters")
    nested = {name: value for name, value in found.items() if isinstance(value, dict)}
    if not nested:
        return found
    if layer_type not in nested:
        asked = "every layer" if layer_type is None else layer_type
        raise UnsupportedModel(
            f"config.json has rotary parameters per layer type ({', '.join(nested)}), not for {asked}"
        )
    return nested[layer_type]


def _beside(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that old spellings have outside of the rotary parameters."""
    return {"rope_theta": raw.get("rope_theta")}


def _lengths(raw: Mapping[str, Any], kind: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The original length, and longrope's factor where none is given, in transformers' order of preference.

    As in transformers 5.23 (standardize_rope_params and the formulas): "dynamic" always uses max_position_embeddings;
    for the other kinds config.json's own original length is preferred to that among the rotary parameters.
    """
    name = _ORIGINAL
    length: Any = raw.get("max_position_embeddings")
    if kind == "dynamic":
        return {name: length}
    if kind not in ("llama3", "yarn", "longrope"):
        return {}
    original: Any = raw.get(name) or stated.get(name) or length
    lengths = {name: original}
    if kind == "longrope" and "factor" not in stated and LENGTH.holds(length) and LENGTH.holds(original):
        lengths["factor"] = length / original
    return lengths
