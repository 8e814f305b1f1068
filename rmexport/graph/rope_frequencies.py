"""Inverse frequencies of rotary embeddings, per rope kind.

Formulas: "Extending Context Window via Positional Interpolation" (linear), "YaRN" (arXiv 2309.00071), and Llama 3.1's
reference code (llama3); the arithmetic is fp32 as in transformers' modeling_rope_utils, so that angles are the same.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rmexport.checkpoint.rope_config import RopeConfig
from rmexport.errors import UnsupportedModel

Floats = NDArray[np.float32]


def rope_frequencies(rope: RopeConfig, head_dim: int) -> tuple[Floats, float]:
    """Inverse frequencies [head_dim / 2] and the factor that scales cos and sin.

    Raises UnsupportedModel for a rope kind without a formula here.
    """
    formula = _FORMULAS.get(rope.kind)
    if formula is None:
        raise UnsupportedModel(f"rope kind {rope.kind!r} has no formula here; known: {', '.join(sorted(_FORMULAS))}")
    exponents = np.arange(0, head_dim, 2, dtype=np.int64).astype(np.float32) / np.float32(head_dim)
    return formula(rope, head_dim, (1.0 / np.float32(rope.theta) ** exponents).astype(np.float32))


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
