"""OpenVINO on CPUs: `MatMul(x, Transpose(W))` on HF's weight layout, 2-D activations, attention by head rows.

Gemm(transB=1) would make it fold a copy of every weight. Work on single tokens is a Scan over chunks of tokens: its
matrix products lose a fifth of their speed where a chunk's activations do not fit into a core's cache, and inside a
Scan the weights stay one constant. In bf16 graphs the products are bf16 while the residual stream and the norms are
fp32, which costs nothing and errs less than the all-bf16 model.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import onnx_ir as ir

from rmexport.graph.attention import AttentionShape, HeadRows, capped, head_rows
from rmexport.graph.dialect import Dialect
from rmexport.graph.packed import AttentionRows
from rmexport.graph.quantized_matrices import cast_and_scale
from rmexport.graph.rotary import Angles, rotary_embedding_shared
from rmexport.graph.writer import Features, GraphWriter
from rmexport.weights.quantization import Quantized
from rmruntime.bundle.manifest import Scheme


class OpenVino(Dialect):
    """Standard ops, in the forms that OpenVINO's CPU plugin fuses."""

    NAME: ClassVar[str] = "openvino"
    SCHEMES: ClassVar[tuple[Scheme, ...]] = ("int8", "int4")  # fp8 would be folded to copies in the compute dtype
    TAKES_PAST: ClassVar[bool] = True
    ROW_GROUPS: ClassVar[int] = 3  # short keys are not padded to the longest
    LEAST_QUANTIZED_ROWS: ClassVar[int] = 8  # up to 4 rows of bf16 take another kernel
    STREAM_DTYPE: ClassVar[str | None] = "fp32"
    TOKEN_CHUNK: ClassVar[int] = 384  # measured: products are fastest at 256 to 400 rows

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        super().__init__(writer, compute_dtype)
        self._chunk_shape = writer.op("Shape", self.inputs.input_ids)

    @classmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        """bf16 where the bundle is, and fp32 for processors without it; fp16 products are slow there."""
        return ("bf16", "fp32") if bundle_dtype == "bf16" else ("fp32",)

    def tokenwise(
        self, body: Callable[..., Sequence[ir.Value]], inputs: Sequence[Features], widths: Sequence[int]
    ) -> Sequence[ir.Value]:
        results = self.w.scan_chunks(body, inputs, self._chunk_shape)
        return [self._flat(value, width) for value, width in zip(results, widths, strict=True)]

    def product(self, x: ir.Value, weight: ir.Value) -> ir.Value:
        return self.w.op("MatMul", x, self.w.op("Transpose", weight, perm=[1, 0]))

    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        y = self.product(x, self.matrix(f"{name}.weight", features))
        return self.w.op("Add", y, self.w.weight_as(f"{name}.bias", features[:1], self.dtype)) if bias else y

    def dequantized(self, name: str, how: Quantized) -> ir.Value:
        """Beside its product, in the body of a Scan too, which it becomes a part of: codes stay in 8 or 4 bits."""
        return cast_and_scale(self.w, name, how, self.dtype) if how.scheme == "int4" else super().dequantized(name, how)

    def rotate(self, x: ir.Value, heads: int, angles: Angles) -> ir.Value:
        return rotary_embedding_shared(self.w, x, heads, angles)

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        by_head = self.w.constant(f"flat_{shape.head_dim}", [-1, shape.head_dim])
        q = self.w.op("Mul", q, self.w.constant(f"scale_{shape.scale}", shape.scale, self.dtype))
        flat = [self.w.op("Reshape", value, by_head) for value in (q, k, v)]
        expanded = [head_rows(self.w, group, shape, self.dtype) for group in (rows, *rows.others)]
        parts = [self.w.op("Reshape", self._attend(flat, where, shape), by_head) for where in expanded]
        outputs = self.w.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        return self._flat(self.w.op("Gather", outputs, expanded[0].unpack), shape.heads * shape.head_dim)

    def _attend(self, flat: list[ir.Value], where: HeadRows, shape: AttentionShape) -> ir.Value:
        """[R, KV, Sq*G, head_dim] of one group of rows; MatMul-Add-Softmax-MatMul becomes one fused node."""
        indices = (where.queries, where.keys, where.keys)
        queries, keys, values = (self.w.op("Gather", x, index) for x, index in zip(flat, indices, strict=True))
        scores = self.w.op("MatMul", queries, self.w.op("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = capped(self.w, scores, shape.softcap, self.dtype)
        return self.w.op("MatMul", self.w.op("Softmax", self.w.op("Add", scores, where.bias), axis=-1), values)

    def _flat(self, value: ir.Value, width: int) -> ir.Value:
        return self.w.op("Reshape", value, self.w.constant(f"flat_{width}", [-1, width]))
