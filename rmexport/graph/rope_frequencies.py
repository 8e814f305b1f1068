"""Inverse frequencies of rotary embeddings, per rope kind.

Formulas: "Extending Context Window via Positional Interpolation" (linear), "YaRN" (arXiv 2309.00071), and Llama 3.1's
reference code (llama3); the arithmetic is fp32 as in transformers' modeling_rope_utils, so that angles are the same.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rmexport.checkpoint.rope_config import RopeConfig
from rmexport.errors import UnsupportedModel
from rmexport.graph.writer import GraphWriter

Floats = NDArray[np.float32]
Largest = Callable[[ir.Value], ir.Value]


def inverse_frequencies(
    w: GraphWriter, rope: RopeConfig, head_dim: int, positions: ir.Value, largest: Largest
) -> tuple[ir.Value, Floats | float]:
    """Inverse frequencies [1, head_dim / 2] and the factors (one, or [1, head_dim / 2]) that scale cos and sin.

    Where only a part of the head is rotated, the other frequencies are 0. `positions` [T, 1] tell a pass's length to
    the kinds whose frequencies depend on it, by the `largest` of them, [1, 1].
    Raises UnsupportedModel for a rope kind without a formula here.
    """
    rotary_dim = int(head_dim * rope.partial)
    length = partial(_length, w, positions, largest)
    if rope.kind == "longrope":
        value, scaling = _longrope(w, rope, rotary_dim, head_dim, length)
    elif rope.kind == "dynamic":
        value, scaling = _dynamic(w, rope, rotary_dim, head_dim, length), 1.0
    else:
        inverse, scaling = rope_frequencies(rope, rotary_dim)
        value = w.constant(_name(rope), _whole_head(inverse, head_dim), "fp32")
    if scaling == 1.0 or rotary_dim == head_dim:
        return value, scaling
    return value, _whole_head(np.full(rotary_dim // 2, scaling, np.float32), head_dim, rest=1.0)


def _name(rope: RopeConfig) -> str:
    return f"inv_freq_{rope.kind}_{rope.theta}_{rope.factor}"


def _whole_head(values: Floats, head_dim: int, rest: float = 0.0) -> Floats:
    """[1, head_dim / 2] with `rest` for the part of a head that is not rotated."""
    return np.concatenate((values, np.full(head_dim // 2 - values.size, rest, np.float32)))[None]


def _length(w: GraphWriter, positions: ir.Value, largest: Largest) -> ir.Value:
    """The length of the pass's longest sequence, [1, 1]; the runtime keeps apart sequences of other frequencies."""
    return w.op("Add", largest(positions), w.constant("one_token", 1.0, "fp32"))


def _longrope(
    w: GraphWriter, rope: RopeConfig, rotary_dim: int, head_dim: int, longest: Callable[[], ir.Value]
) -> tuple[ir.Value, float]:
    """arXiv 2402.13753 as Phi-3 has it: other divisors for sequences beyond the original length."""
    base, length = _base(rope, rotary_dim), _need(rope.original_max_position_embeddings, "original length")
    kinds = {"short": rope.short_factors, "long": rope.long_factors}
    if any(len(factors) != base.size for factors in kinds.values()):
        raise UnsupportedModel(f"the config's longrope factors are not {base.size} each, half of the rotated features")
    short, long = (
        w.constant(
            f"inv_freq_{name}", _whole_head((base / np.array(factors, np.float32)).astype(np.float32), head_dim), "fp32"
        )
        for name, factors in kinds.items()
    )
    beyond = w.op("Greater", longest(), w.constant("original_length", length, "fp32"))
    factor = _need(rope.factor, "factor")
    scaling = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))
    return w.op("Where", beyond, long, short), scaling if rope.attention_factor is None else rope.attention_factor


def _dynamic(
    w: GraphWriter, rope: RopeConfig, rotary_dim: int, head_dim: int, longest: Callable[[], ir.Value]
) -> ir.Value:
    """NTK scaling by length: the base grows by (factor * length / original - factor + 1) ** (dim / (dim - 2))."""
    factor, original = _need(rope.factor, "factor"), _need(rope.original_max_position_embeddings, "original length")
    length = w.op("Max", longest(), w.constant("original_length", original, "fp32"))
    stretch = w.op("Mul", length, w.constant("factor_per_token", factor / original, "fp32"))
    stretch = w.op("Sub", stretch, w.constant("factor_less_one", factor - 1, "fp32"))
    power = w.op("Pow", stretch, w.constant("ntk_power", rotary_dim / (rotary_dim - 2), "fp32"))
    exponents = _whole_head(_exponents(rotary_dim), head_dim, rest=np.inf)  # a power of infinity leaves angle 0
    base = w.op("Mul", power, w.constant("rope_theta", rope.theta, "fp32"))
    return w.op("Reciprocal", w.op("Pow", base, w.constant("rope_exponents", exponents, "fp32")))


def _exponents(rotary_dim: int) -> Floats:
    return np.arange(0, rotary_dim, 2, dtype=np.int64).astype(np.float32) / np.float32(rotary_dim)


def _base(rope: RopeConfig, rotary_dim: int) -> Floats:
    return (1.0 / np.float32(rope.theta) ** _exponents(rotary_dim)).astype(np.float32)


def rope_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Floats, float]:
    """Inverse frequencies [head_dim / 2] and the factor that scales cos and sin, for kinds that ignore the length.

    Raises UnsupportedModel for a rope kind without a formula here.

    >>> inverse, scaling = rope_frequencies(RopeConfig(kind="default", theta=10000.0), 4)
    >>> [round(value, 3) for value in inverse.tolist()], scaling
    ([1.0, 0.01], 1.0)
    """
    formula = _FORMULAS.get(rope.kind)
    if formula is None:
        raise UnsupportedModel(f"rope kind {rope.kind!r} has no formula here; known: {', '.join(sorted(_FORMULAS))}")
    return formula(rope, head_dim, _base(rope, head_dim))


def _default(rope: RopeConfig, head_dim: int, base: Floats) -> tuple[Floats, float]:
    return base, 1.0


def _linear(rope: RopeConfig, head_dim: int, base: Floats) -> tuple[Floats, float]:
    return base / np.float32(_need(rope.factor, "factor")), 1.0


def _llama3(rope: RopeConfig, head_dim: int, base: Floats) -> tuple[Floats, float]:
    """Long wavelengths are slowed by `factor`, short ones kept, those between are blended."""
    factor, low, high = (_need(getattr(rope, name), name) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    original = _need(rope.original_max_position_embeddings, "original_max_position_embeddings")
    wavelength = np.float32(2 * math.pi) / base
    slowed = np.where(wavelength > np.float32(original / low), base / np.float32(factor), base)
    blend = (np.float32(original) / wavelength - np.float32(low)) / np.float32(high - low)
    blended = (1 - blend) * slowed / np.float32(factor) + blend * slowed
    between = ~(wavelength < np.float32(original / high)) & ~(wavelength > np.float32(original / low))
    return np.where(between, blended, slowed).astype(np.float32), 1.0


def _yarn(rope: RopeConfig, head_dim: int, base: Floats) -> tuple[Floats, float]:
    """Interpolation for slow dimensions, extrapolation for fast ones, a linear ramp between."""
    factor = _need(rope.factor, "factor")
    original = _need(rope.original_max_position_embeddings, "original_max_position_embeddings")
    low = _correction_dim(rope.beta_fast, head_dim, rope.theta, original)
    high = _correction_dim(rope.beta_slow, head_dim, rope.theta, original)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = (high - low) or 0.001  # the ramp may be empty
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(width)
    extrapolated = 1 - np.clip(ramp, 0, 1)
    mixed = base / np.float32(factor) * (1 - extrapolated) + base * extrapolated
    return mixed.astype(np.float32), _yarn_scaling(rope, factor)


def _correction_dim(rotations: float, head_dim: int, theta: float, original: float) -> float:
    return (head_dim * math.log(original / (rotations * 2 * math.pi))) / (2 * math.log(theta))


def _yarn_scaling(rope: RopeConfig, factor: float) -> float:
    def attention_scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return attention_scale(rope.mscale) / attention_scale(rope.mscale_all_dim)
    return attention_scale(1.0)


def _need(value: float | None, name: str) -> float:
    if value is None:
        raise UnsupportedModel(f"the config's rope parameters lack {name}; add it to config.json")
    return float(value)


_FORMULAS: dict[str, Callable[[RopeConfig, int, Floats], tuple[Floats, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
