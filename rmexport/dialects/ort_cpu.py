"""ONNX Runtime on CPUs: fp32 arithmetic over weights of any dtype, `Gemm(transB=1)` on HF's weight layout.

ORT has no 16-bit Gemm on x86, so 16-bit weights pass through a Cast, which the runtime folds at load where memory
allows and runs per pass where it does not. `MatMul(x, Transpose(W))` would be folded into a heap copy; Gemm is not.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from rmexport.graph.dialect import AttentionShape, Dialect
from rmexport.graph.packed import AttentionRows, HeadRows, expand_head_rows
from rmexport.graph.quantized_matrices import packed_product
from rmexport.graph.writer import CONTRIB, GraphWriter
from rmexport.weights.quantization import Quantized


@dataclass(frozen=True)
class _EvenRows:
    """`value` has the first `rows` [1] rows of what it was made of, and maybe one more."""

    value: ir.Value
    rows: ir.Value


class OrtCpu(Dialect):
    """Standard ops plus ORT's own fused activations; attention by head rows."""

    NAME: ClassVar[str] = "ort-cpu"
    ROW_GROUPS: ClassVar[int] = 3  # short keys are not padded to the longest

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        super().__init__(writer, compute_dtype)
        self._expanded: dict[object, HeadRows] = {}
        self._padded: dict[str, _EvenRows] = {}

    @classmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        return ("fp32",)

    def product(self, x: ir.Value, weight: ir.Value) -> ir.Value:
        return self.w.op("Gemm", x, weight, transB=1)

    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        extra = [self.weight(f"{name}.bias", features[:1])] if bias else []
        how = self.w.how_quantized(f"{name}.weight")
        if how is not None and how.scheme == "int4":
            return self._packed_product(x, f"{name}.weight", how, *extra)
        return self.w.op("Gemm", x, self.matrix(f"{name}.weight", features), *extra, transB=1)

    def _packed_product(self, x: ir.Value, name: str, how: Quantized, bias: ir.Value | None = None) -> ir.Value:
        """The product of an even number of rows: the op cuts rows by 128, and sums a single one in another order."""
        w, even = self.w, self._even(x)
        product = packed_product(w, even.value, name, how, self.dtype, bias)
        begin, axis = w.constant("rows_begin", [0]), w.constant("axes_0", [0])
        return w.op("Slice", product, begin, even.rows, axis)

    def _even(self, x: ir.Value) -> "_EvenRows":
        """`x` with a row of zeros added where its number of rows is odd; made once for all nodes that read `x`."""
        key = str(x.name)
        if key not in self._padded:
            w, zero = self.w, self.w.constant("no_rows", [0])
            rows = w.op("Shape", x, start=0, end=1)
            pads = w.op("Concat", zero, zero, w.op("Mod", rows, w.constant("two_rows", [2])), zero, axis=0)
            self._padded[key] = _EvenRows(w.op("Pad", x, pads), rows)
        return self._padded[key]

    def rotate(self, x: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        axis0 = self.w.constant("axes_0", [0])
        batch = [self.w.op("Unsqueeze", value, axis0) for value in (x, cos, sin)]
        return self.w.op("Squeeze", self.w.op("RotaryEmbedding", *batch, num_heads=heads), axis0)

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        by_head = self.w.constant(f"by_head_{shape.head_dim}", [-1, shape.head_dim])
        flat = [self.w.op("Reshape", value, by_head) for value in (q, k, v)]
        expanded = [self._head_rows(group, shape) for group in (rows, *rows.others)]
        parts = [self.w.op("Reshape", self._attend(flat, where, shape), by_head) for where in expanded]
        outputs = self.w.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        joined = self.w.constant(f"joined_{shape.heads}_{shape.head_dim}", [-1, shape.heads * shape.head_dim])
        return self.w.op("Reshape", self.w.op("Gather", outputs, expanded[0].unpack), joined)

    def _attend(self, flat: list[ir.Value], where: HeadRows, shape: AttentionShape) -> ir.Value:
        """[R, KV, Sq*G, head_dim] of one group of rows."""
        indices = (where.queries, where.keys, where.keys)
        queries, keys, values = (self.w.op("Gather", x, index) for x, index in zip(flat, indices, strict=True))
        scores = self.capped(self._scores(queries, keys, shape), shape.softcap)
        weights = self.w.op("Softmax", self.w.op("Add", scores, where.bias), axis=-1)
        return self.w.op("MatMul", weights, values)

    def silu(self, x: ir.Value) -> ir.Value:
        return self.w.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)

    def _scores(self, queries: ir.Value, keys: ir.Value, shape: AttentionShape) -> ir.Value:
        return self.w.op("FusedMatMul", queries, keys, domain=CONTRIB, transB=1, alpha=shape.scale)

    def _head_rows(self, rows: AttentionRows, shape: AttentionShape) -> HeadRows:
        key = (rows.prefix, shape.heads, shape.kv_heads, shape.window)
        if key not in self._expanded:
            self._expanded[key] = expand_head_rows(self.w, rows, shape.heads, shape.kv_heads, shape.window, self.dtype)
        return self._expanded[key]
