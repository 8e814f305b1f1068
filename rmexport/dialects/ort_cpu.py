"""ONNX Runtime on CPUs: fp32 arithmetic over weights of any dtype, `Gemm(transB=1)` on HF's weight layout.

ORT has no 16-bit Gemm on x86, so 16-bit weights pass through a Cast, which the runtime folds at load where memory
allows and runs per pass where it does not. `MatMul(x, Transpose(W))` would be folded into a heap copy; Gemm is not.
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from rmexport.graph.attention import AttentionShape, HeadRows, capped, head_rows
from rmexport.graph.dialect import Dialect
from rmexport.graph.packed import AttentionRows
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
    TAKES_PAST: ClassVar[bool] = True
    ROW_GROUPS: ClassVar[int] = 3  # short keys are not padded to the longest

    @classmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        return ("fp32",)

    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        how = self.w.how_quantized(f"{name}.weight")
        if how is None or how.scheme != "int4":
            return super().linear(x, name, features, bias=bias)
        extra = [self.w.weight_as(f"{name}.bias", features[:1], self.dtype)] if bias else []
        return self._packed_product(x, f"{name}.weight", how, *extra)

    def _packed_product(self, x: ir.Value, name: str, how: Quantized, bias: ir.Value | None = None) -> ir.Value:
        """The product of an even number of rows: the op cuts rows by 128, and sums a single one in another order."""
        w, even = self.w, self._even(x)
        product = packed_product(w, even.value, name, how, self.dtype, bias)
        begin, axis = w.constant("rows_begin", [0]), w.constant("axes_0", [0])
        return w.op("Slice", product, begin, even.rows, axis)

    def _even(self, x: ir.Value) -> _EvenRows:
        """`x` with a row of zeros added where its number of rows is odd; made once for all nodes that read `x`."""
        return self.w.shared(("even", x.name), lambda: _even_rows(self.w, x))

    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        by_head = self.w.constant(f"by_head_{shape.head_dim}", [-1, shape.head_dim])
        flat = [self.w.op("Reshape", value, by_head) for value in (q, k, v)]
        expanded = [head_rows(self.w, group, shape, self.dtype) for group in (rows, *rows.others)]
        parts = [self.w.op("Reshape", self._attend(flat, where, shape), by_head) for where in expanded]
        outputs = self.w.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        joined = self.w.constant(f"joined_{shape.heads}_{shape.head_dim}", [-1, shape.heads * shape.head_dim])
        return self.w.op("Reshape", self.w.op("Gather", outputs, expanded[0].unpack), joined)

    def _attend(self, flat: list[ir.Value], where: HeadRows, shape: AttentionShape) -> ir.Value:
        """[R, KV, Sq*G, head_dim] of one group of rows."""
        indices = (where.queries, where.keys, where.keys)
        queries, keys, values = (self.w.op("Gather", x, index) for x, index in zip(flat, indices, strict=True))
        scores = capped(self.w, self._scores(queries, keys, shape), shape.softcap, self.dtype)
        weights = self.w.op("Softmax", self.w.op("Add", scores, where.bias), axis=-1)
        return self.w.op("MatMul", weights, values)

    def silu(self, x: ir.Value) -> ir.Value:
        return self.w.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)

    def _scores(self, queries: ir.Value, keys: ir.Value, shape: AttentionShape) -> ir.Value:
        return self.w.op("FusedMatMul", queries, keys, domain=CONTRIB, transB=1, alpha=shape.scale)


def _even_rows(w: GraphWriter, x: ir.Value) -> _EvenRows:
    zero = w.constant("no_rows", [0])
    rows = w.op("Shape", x, start=0, end=1)
    pads = w.op("Concat", zero, zero, w.op("Mod", rows, w.constant("two_rows", [2])), zero, axis=0)
    return _EvenRows(w.op("Pad", x, pads), rows)
