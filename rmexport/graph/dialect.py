"""What an engine decides about a graph: a few facts, and which ONNX nodes each of a few operations becomes.

Everything else of a graph is written the same way for every engine, by `rmexport.graph.decoder_writer` and
`rmexport.graph.head_writer`. Activations are 2-D, `[tokens, features]`, in the graph's compute dtype.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, get_args

import onnx_ir as ir

from rmexport.graph.attention import AttentionShape
from rmexport.graph.packed import AttentionRows, PackedInputs, declare_packed_inputs
from rmexport.graph.quantized_matrices import dequantize_linear
from rmexport.graph.rotary import Angles, rotary_embedding
from rmexport.graph.writer import Features, GraphWriter
from rmexport.weights.quantization import Quantized
from rmruntime.bundle.manifest import Scheme


class Dialect(ABC):
    """One engine's spelling of the operations below, over one GraphWriter. Subclasses are in rmexport/dialects.

    Two of them every dialect must have, `compute_dtypes` and `attention`. The others are standard ops here, and a
    dialect has its own of those that its engine runs better, or only, in another form.
    """

    NAME: ClassVar[str]
    KEY_MULTIPLE: ClassVar[int] = 16
    ROW_GROUPS: ClassVar[int] = 1
    STREAM_DTYPE: ClassVar[str | None] = None  # of the residual stream; None: the compute dtype
    PAGE_SIZE: ClassVar[int] = 0  # keys per page, where tokens find their keys by pages; 0: by attention rows
    SCHEMES: ClassVar[tuple[Scheme, ...]] = get_args(Scheme)  # of quantized matrices that it supports
    LEAST_QUANTIZED_ROWS: ClassVar[int] = 2  # of quantized products: engines round fewer differently
    TAKES_PAST: ClassVar[bool] = False  # whether exports also write its graphs with a past
    TOKEN_CHUNK: ClassVar[int] = 0  # tokens that `tokenwise` takes at a time; 0: all at once

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        self.w = writer
        self.dtype = compute_dtype
        self.inputs: PackedInputs = declare_packed_inputs(
            writer, self.ROW_GROUPS, chunked=bool(self.TOKEN_CHUNK), paged=bool(self.PAGE_SIZE)
        )

    @classmethod
    def page_size(cls, head_dim: int) -> int:
        """Keys per page for heads of this size: PAGE_SIZE, where the engine's kernel takes the same for all."""
        return cls.PAGE_SIZE

    @classmethod
    @abstractmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        """The dtypes of the activations for a bundle of this dtype: one graph each."""

    @abstractmethod
    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        """Causal attention of the rows' queries over their keys: `[tokens of the rows, heads * head_dim]`."""

    def product(self, x: ir.Value, weight: ir.Value) -> ir.Value:
        """`x @ weight.T` with `weight` [out, in] in the compute dtype, as HF stores it."""
        return self.w.op("Gemm", x, weight, transB=1)

    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        """`x @ weight.T + bias` with `name.weight` of shape `features` = (out, in) as HF stores it."""
        extra = [self.w.weight_as(f"{name}.bias", features[:1], self.dtype)] if bias else []
        return self.w.op("Gemm", x, self.matrix(f"{name}.weight", features), *extra, transB=1)

    def dequantized(self, name: str, how: Quantized) -> ir.Value:
        """A quantized matrix [out, in] in the compute dtype."""
        return dequantize_linear(self.w, name, how, self.dtype)

    def rotate(self, x: ir.Value, heads: int, angles: Angles) -> ir.Value:
        """Rotary embedding on `[tokens, heads * head_dim]`, half-split as HF does it."""
        return rotary_embedding(self.w, x, heads, angles)

    def largest(self, x: ir.Value) -> ir.Value:
        """The largest of `x` [T, 1] in fp32, as [1, 1]."""
        return self.w.op("ReduceMax", x, keepdims=1)

    def silu(self, x: ir.Value) -> ir.Value:
        """`x * sigmoid(x)`."""
        return self.w.op("Mul", x, self.w.op("Sigmoid", x))

    def residual_sum(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """`x + y`, the residual stream and what a block adds to it, both in the stream's dtype."""
        return self.w.op("Add", x, y)

    def tokenwise(
        self, body: Callable[..., Sequence[ir.Value]], inputs: Sequence[Features], widths: Sequence[int]
    ) -> Sequence[ir.Value]:
        """`body(*values)`, work on each token by itself, which a dialect may do in chunks of tokens.

        `widths` are those of the results, each [tokens, width].
        """
        return body(*(x.value for x in inputs))

    def matrix(self, name: str, shape: tuple[int, int]) -> ir.Value:
        """A linear layer's weight [out, in] in the compute dtype, quantized or not: what `linear` reads."""
        how = self.w.how_quantized(name)
        return self.w.weight_as(name, shape, self.dtype, linear=True) if how is None else self.dequantized(name, how)
