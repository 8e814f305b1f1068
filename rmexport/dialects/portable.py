"""Standard opset 23 in the bundle's own dtype: what TensorRT fuses, and what any complete ONNX engine can run.

RMSNormalization, RotaryEmbedding and 3-D Attention with a boolean mask. Never emitted, because an engine gets it wrong
or refuses it: softcap, past keys, mask together with is_causal, nonpad_kv_seqlen, 4-D attention inputs.
"""

from typing import ClassVar

import onnx_ir as ir

from rmexport.graph.packed import AttentionRows, visible_keys
from rmexport.graph.vocabulary import AttentionShape, Dialect
from rmexport.graph.writer import GraphWriter


class Portable(Dialect):
    """Attention as the standard op over padded rows; everything else on packed tokens."""

    NAME: ClassVar[str] = "portable"

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        super().__init__(writer, compute_dtype)
        self._masks: dict[object, ir.Value] = {}

    @classmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        return (bundle_dtype,)

    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        extra = [self.weight(f"{name}.bias", features[:1])] if bias else []
        return self.w.op("Gemm", x, self.weight(f"{name}.weight", features), *extra, transB=1)

    def rms_norm(self, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
        return self.w.op("RMSNormalization", x, self.weight(f"{name}.weight", (size,)), axis=-1, epsilon=epsilon)

    def rotate(self, x: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        axis0 = self.w.constant("axes_0", [0])
        batch = [self.w.op("Unsqueeze", value, axis0) for value in (x, cos, sin)]
        return self.w.op("Squeeze", self.w.op("RotaryEmbedding", *batch, num_heads=heads), axis0)

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        indices = (rows.query_index, rows.key_index, rows.key_index)
        padded = [self.w.op("Gather", x, index) for x, index in zip((q, k, v), indices, strict=True)]
        outputs = self.w.op(
            "Attention",
            *padded,
            self._mask(rows, shape),
            q_num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.scale,
        )  # [R, Sq, heads * head_dim]
        flat = self.w.constant(f"joined_{shape.heads}_{shape.head_dim}", [-1, shape.heads * shape.head_dim])
        return self.w.op("Gather", self.w.op("Reshape", outputs, flat), rows.unpack_index)

    def gated(self, gate: ir.Value, up: ir.Value) -> ir.Value:
        return self.w.op("Mul", self.w.op("Mul", gate, self.w.op("Sigmoid", gate)), up)

    def _mask(self, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        """[R, 1, Sq, Sk] booleans, shared by all layers that attend alike."""
        key = (rows.prefix, shape.window)
        if key not in self._masks:
            seen = visible_keys(self.w, rows, shape.window)
            self._masks[key] = self.w.op("Unsqueeze", seen, self.w.constant("axes_1", [1]))
        return self._masks[key]
