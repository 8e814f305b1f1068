"""The operations of dialects for ONNX Runtime on NVIDIA GPUs, as its CUDA kernels take them, in the bundle's own dtype.

`Gemm(transB=1)` on HF's weight layout, 2-D activations, shapes that are constants: arithmetic on shapes would run on
the host. Attention by rows is the standard op on 3-D inputs with one additive mask for all layers; its kernel keeps it
in 16 bits where the keys are a multiple of 4 and the head size one of 8, and applies a softcap before the mask.
Residual sums are joined with the norms that read them.
"""

from functools import partial
from typing import Any

import onnx_ir as ir

from rmexport.dialects._fuse_skip_norm import fuse_skip_norms
from rmexport.graph.attention import AttentionShape, additive_mask
from rmexport.graph.dialect import Dialect
from rmexport.graph.packed import AttentionRows
from rmexport.graph.quantized_matrices import cast_and_scale, packed_product
from rmexport.graph.rotary import Angles, rotary_embedding_shared
from rmexport.graph.writer import CONTRIB, GraphWriter
from rmexport.weights.quantization import Quantized


class OrtCudaBase(Dialect):
    """Everything but the name, and which tokens attend by rows."""

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        super().__init__(writer, compute_dtype)
        self._sums: list[ir.Value] = []
        writer.rewrites.append(partial(fuse_skip_norms, sums=self._sums))

    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        how = self.w.how_quantized(f"{name}.weight")
        if how is None or how.scheme != "int4":
            return super().linear(x, name, features, bias=bias)
        extra = [self.w.weight_as(f"{name}.bias", features[:1], self.dtype)] if bias else []
        return packed_product(self.w, x, f"{name}.weight", how, self.dtype, *extra)

    def dequantized(self, name: str, how: Quantized) -> ir.Value:
        """DequantizeLinear has no kernel for bf16."""
        return cast_and_scale(self.w, name, how, self.dtype)

    def residual_sum(self, x: ir.Value, y: ir.Value) -> ir.Value:
        self._sums.append(super().residual_sum(x, y))
        return self._sums[-1]

    def silu(self, x: ir.Value) -> ir.Value:
        """One node that takes the sigmoid in fp32; QuickGelu's and Sigmoid's kernels compute it in 16 bits."""
        return self.w.op("ScaledSiLU", x, domain=CONTRIB, alpha=1.0)

    def largest(self, x: ir.Value) -> ir.Value:
        """By TopK: the provider has ReduceMax from cuDNN alone."""
        return self.w.ops("TopK", x, self.w.constant("largest_one", [1]), outputs=2, axis=0)[0]

    def rotate(self, x: ir.Value, heads: int, angles: Angles) -> ir.Value:
        return rotary_embedding_shared(self.w, x, heads, angles)

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        width = shape.heads * shape.head_dim
        flat = self.w.constant(f"flat_{width}", [-1, width])
        parts = [self.w.op("Reshape", self._attend(q, k, v, group, shape), flat) for group in (rows, *rows.others)]
        outputs = self.w.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        return self.w.op("Gather", outputs, rows.unpack_index)

    def _attend(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        """[R, Sq, heads * head_dim] of one group of rows."""
        indices = (rows.query_index, rows.key_index, rows.key_index)
        padded = [self.w.op("Gather", x, index) for x, index in zip((q, k, v), indices, strict=True)]
        softcap: dict[str, Any] = {} if shape.softcap is None else {"softcap": shape.softcap}
        return self.w.op(
            "Attention",
            *padded,
            self._mask(rows, shape),
            q_num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.scale,
            **softcap,
        )

    def _mask(self, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        """[R, 1, Sq, Sk], shared by all layers that attend alike; the kernel makes of booleans the same, every time."""
        return self.w.shared(("mask", rows.name, shape.window), lambda: self._new_mask(rows, shape))

    def _new_mask(self, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        mask = additive_mask(self.w, rows, shape.window, self.dtype)
        return self.w.op("Unsqueeze", mask, self.w.constant("axes_1", [1]))
