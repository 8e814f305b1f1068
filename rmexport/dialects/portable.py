"""Standard opset 23 in the bundle's own dtype: what TensorRT fuses, and what any complete ONNX engine can run.

RMSNormalization, RotaryEmbedding and 3-D Attention with a boolean mask. Never emitted, because an engine gets it wrong
or refuses it: softcap (written out instead), past keys, mask together with is_causal, nonpad_kv_seqlen, 4-D attention
inputs. Quantized matrices are DequantizeLinear, which TensorRT keeps as they are.
"""

from typing import ClassVar

import onnx_ir as ir

from rmexport.graph.attention import MASKED, AttentionShape, capped, visible_keys
from rmexport.graph.dialect import Dialect
from rmexport.graph.packed import AttentionRows
from rmruntime.bundle.manifest import Scheme


class Portable(Dialect):
    """Attention as the standard op over padded rows; everything else on packed tokens."""

    NAME: ClassVar[str] = "portable"
    SCHEMES: ClassVar[tuple[Scheme, ...]] = ("int8", "fp8")  # TensorRT has signed 4-bit numbers alone

    @classmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        return (bundle_dtype,)

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        indices = (rows.query_index, rows.key_index, rows.key_index)
        padded = [self.w.op("Gather", x, index) for x, index in zip((q, k, v), indices, strict=True)]
        attend = self._attend if shape.softcap is None else self._attend_capped
        flat = self.w.constant(f"flat_{shape.heads * shape.head_dim}", [-1, shape.heads * shape.head_dim])
        outputs = attend(padded, self._mask(rows, shape), shape)  # [R, Sq, heads * head_dim]
        return self.w.op("Gather", self.w.op("Reshape", outputs, flat), rows.unpack_index)

    def _attend(self, padded: list[ir.Value], mask: ir.Value, shape: AttentionShape) -> ir.Value:
        return self.w.op(
            "Attention",
            *padded,
            mask,
            q_num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.scale,
        )

    def _attend_capped(self, padded: list[ir.Value], mask: ir.Value, shape: AttentionShape) -> ir.Value:
        """`_attend` in single ops, with a softcap; [R, KV, G, Sq, D] groups the query heads by their key head."""
        w, group = self.w, shape.heads // shape.kv_heads
        heads = w.constant(f"by_heads_{shape.heads}", [0, -1, shape.kv_heads, group, shape.head_dim])
        q = w.op("Transpose", w.op("Reshape", padded[0], heads), perm=[0, 2, 3, 1, 4])  # [R, KV, G, Sq, D]
        kv = w.constant(f"by_kv_heads_{shape.kv_heads}", [0, -1, shape.kv_heads, 1, shape.head_dim])
        k = w.op("Transpose", w.op("Reshape", padded[1], kv), perm=[0, 2, 3, 4, 1])  # [R, KV, 1, D, Sk]
        v = w.op("Transpose", w.op("Reshape", padded[2], kv), perm=[0, 2, 3, 1, 4])
        scores = w.op("Mul", w.op("MatMul", q, k), w.constant(f"scale_{shape.scale}", shape.scale, self.dtype))
        hidden = w.op("Unsqueeze", mask, w.constant("axes_1", [1]))
        masked = w.constant("masked", MASKED, self.dtype)
        scores = capped(w, scores, shape.softcap, self.dtype)
        weights = w.op("Softmax", w.op("Where", hidden, scores, masked), axis=-1)
        mixed = w.op("Transpose", w.op("MatMul", weights, v), perm=[0, 3, 1, 2, 4])  # [R, Sq, KV, G, D]
        return w.op("Reshape", mixed, w.constant("joined_heads", [0, 0, shape.heads * shape.head_dim]))

    def _mask(self, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        """[R, 1, Sq, Sk] booleans, shared by all layers that attend alike."""
        return self.w.shared(("mask", rows.name, shape.window), lambda: self._new_mask(rows, shape))

    def _new_mask(self, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        seen = visible_keys(self.w, rows, shape.window)
        return self.w.op("Unsqueeze", seen, self.w.constant("axes_1", [1]))
