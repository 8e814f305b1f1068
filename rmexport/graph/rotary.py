"""Rotary embeddings: the angles of a pass's tokens, and the rotation by them as the standard op has it."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rmexport.checkpoint.rope_config import RopeConfig
from rmexport.graph.packed import PackedInputs
from rmexport.graph.rope_frequencies import Largest, inverse_frequencies
from rmexport.graph.writer import DATA_TYPES, GraphWriter


@dataclass(frozen=True)
class Angles:
    """cos and sin of some tokens' rotary angles, [tokens, head_dim / 2] each, in the compute dtype.

    Rotated queries are multiplied by `query_scale` [tokens, 1], where there is one.
    """

    cos: ir.Value
    sin: ir.Value
    query_scale: ir.Value | None = None


@dataclass(frozen=True)
class RotaryAngles:
    """The angles of all T tokens, and those of the N scored ones."""

    every: Angles
    scored: Angles


def rotary_angles(
    w: GraphWriter, inputs: PackedInputs, rope: RopeConfig, head_dim: int, dtype: str, largest: Largest
) -> RotaryAngles:
    """cos and sin from the positions, in fp32 as HF computes them, then cast: no table, so no length limit.

    `largest` is the dialect's. Where only a part of each head is rotated, angles of the rest are 0; see
    `rmexport.graph.partial_rotary`.
    """
    unsqueezed = w.op("Unsqueeze", inputs.position_ids, w.constant("axes_1", [1]))
    positions = w.op("Cast", unsqueezed, to=DATA_TYPES["fp32"])
    inverse, scaling = inverse_frequencies(w, rope, head_dim, positions, largest)
    angles = w.op("Mul", positions, inverse)
    cos, sin = (_scaled(w, w.op(op, angles), scaling, dtype) for op in ("Cos", "Sin"))
    scale = () if rope.query_scaling is None else (_query_scale(w, rope, positions, dtype),)
    scored = inputs.read_rows.take
    assert scored is not None  # `declare_packed_inputs` always declares it
    every = (cos, sin, *scale)
    return RotaryAngles(Angles(*every), Angles(*(w.op("Gather", x, scored) for x in every)))


def rotary_embedding(w: GraphWriter, x: ir.Value, heads: int, angles: Angles) -> ir.Value:
    """The standard op on `x` [tokens, heads * head_dim], half-split as HF does it."""
    axis0 = w.constant("axes_0", [0])
    batch = [w.op("Unsqueeze", value, axis0) for value in (x, angles.cos, angles.sin)]
    return w.op("Squeeze", w.op("RotaryEmbedding", *batch, num_heads=heads), axis0)


def rotary_embedding_shared(w: GraphWriter, x: ir.Value, heads: int, angles: Angles) -> ir.Value:
    """`rotary_embedding` whose reshaped angles are made once for all that is rotated by them."""
    axis0 = w.constant("axes_0", [0])
    key = ("angles", angles.cos.name, angles.sin.name)
    batch = w.shared(key, lambda: [w.op("Unsqueeze", value, axis0) for value in (angles.cos, angles.sin)])
    rotated = w.op("RotaryEmbedding", w.op("Unsqueeze", x, axis0), *batch, num_heads=heads)
    return w.op("Squeeze", rotated, axis0)


def _scaled(w: GraphWriter, x: ir.Value, scaling: NDArray[np.float32] | float, dtype: str) -> ir.Value:
    if not isinstance(scaling, float) or scaling != 1.0:
        x = w.op("Mul", x, w.constant("rope_scaling", np.float32(scaling), "fp32"))
    return w.cast(x, "fp32", dtype)


def _query_scale(w: GraphWriter, rope: RopeConfig, positions: ir.Value, dtype: str) -> ir.Value:
    """1 + beta * ln(1 + floor(position / original length)), [T, 1]; `get_llama_4_attn_scale` of modeling_ministral3."""
    length, beta, one = (
        w.constant(name, value, "fp32")
        for name, value in (
            ("query_length", rope.original_max_position_embeddings),
            ("query_scaling", rope.query_scaling),
            ("one", 1.0),
        )
    )
    lengths = w.op("Floor", w.op("Div", positions, length))
    growth = w.op("Mul", w.op("Log", w.op("Add", lengths, one)), beta)
    return w.cast(w.op("Add", growth, one), "fp32", dtype)
