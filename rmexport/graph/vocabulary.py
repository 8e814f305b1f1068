"""The small vocabulary in which families and heads are written; a dialect decides which ONNX nodes each word becomes.

Activations are 2-D, `[tokens, features]`, in the graph's compute dtype; heads and the final norm are fp32.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from rmexport.checkpoint.rope_config import RopeConfig
from rmexport.graph.packed import AttentionRows, PackedInputs, declare_packed_inputs
from rmexport.graph.rope_frequencies import rope_frequencies
from rmexport.graph.writer import DATA_TYPES, Features, GraphWriter


@dataclass(frozen=True)
class Rotary:
    """cos and sin of every token's angles, [T, rotary_dim / 2], and the same of the read tokens, [N, ...]."""

    cos: ir.Value
    sin: ir.Value
    read_cos: ir.Value
    read_sin: ir.Value
    width: int
    dtype: str

    @property
    def features(self) -> tuple[Features, Features]:
        """cos and sin of all tokens."""
        return Features(self.cos, self.width, self.dtype), Features(self.sin, self.width, self.dtype)


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Numbers of one attention: query heads, key/value heads, head size, score scale, sliding window in tokens."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None


class Dialect(ABC):
    """The vocabulary over one GraphWriter. Subclasses live in rmexport/dialects, one file each."""

    NAME: ClassVar[str]
    KEY_MULTIPLE: ClassVar[int] = 16
    ROW_GROUPS: ClassVar[int] = 1
    STREAM_DTYPE: ClassVar[str | None] = None  # of the residual stream; None: as all else
    TOKEN_CHUNK: ClassVar[int] = 0  # tokens that token-by-token work likes to be done in at a time; 0: all at once

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        self.w = writer
        self.dtype = compute_dtype
        self.stream_dtype = self.STREAM_DTYPE or self.dtype
        self.inputs: PackedInputs = declare_packed_inputs(writer, self.ROW_GROUPS, chunked=bool(self.TOKEN_CHUNK))

    @classmethod
    @abstractmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        """The dtypes of the activations for a bundle of this dtype: one graph each."""

    @abstractmethod
    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        """`x @ weight.T + bias` with `name.weight` of shape `features` = (out, in) as HF stores it."""

    @abstractmethod
    def rms_norm(self, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
        """Root-mean-square norm over the last axis, statistics in fp32."""

    @abstractmethod
    def rotate(self, x: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """Rotary embedding on `[tokens, heads * head_dim]`, half-split as HF does it."""

    @abstractmethod
    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        """Causal attention of the rows' queries over their keys: `[tokens of the rows, heads * head_dim]`."""

    @abstractmethod
    def gated(self, gate: ir.Value, up: ir.Value) -> ir.Value:
        """`silu(gate) * up`."""

    def tokenwise(
        self, body: Callable[..., Sequence[ir.Value]], inputs: Sequence[Features], widths: Sequence[int]
    ) -> Sequence[ir.Value]:
        """`body(*values)`, work on each token by itself, which a dialect may do in chunks of tokens.

        `widths` are those of the results, each [tokens, width].
        """
        return body(*(x.value for x in inputs))

    # Words that every dialect spells alike.

    def weight(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        """A backbone's weight in the compute dtype."""
        value, stored = self.w.weight(name, shape)
        return self._cast(value, stored, self.dtype)

    def embed(self, name: str, shape: tuple[int, int]) -> ir.Value:
        """Rows of the embedding table for the packed tokens."""
        table, stored = self.w.weight(f"{name}.weight", shape)
        rows = self.w.op("Gather", table, self.inputs.input_ids)
        if self.TOKEN_CHUNK:
            rows = self.w.op("Reshape", rows, self.w.constant(f"flat_{shape[1]}", [-1, shape[1]]))
        return self._cast(rows, stored, self.stream_dtype)

    def features(self, value: ir.Value, width: int) -> Features:
        """A value in the compute dtype, as `tokenwise` takes it."""
        return Features(value, width, self.dtype)

    def stream(self, value: ir.Value, width: int) -> Features:
        """The residual stream, as `tokenwise` takes it."""
        return Features(value, width, self.stream_dtype)

    def narrow(self, x: ir.Value) -> ir.Value:
        """The residual stream in the compute dtype, for products that read it without a norm."""
        return self._cast(x, self.stream_dtype, self.dtype)

    def widen(self, y: ir.Value) -> ir.Value:
        """A value of the compute dtype in the stream's, which norms read."""
        return self._cast(y, self.dtype, self.stream_dtype)

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Residual sum: the stream `x` and what a block adds to it."""
        return self.w.op("Add", x, self.widen(y))

    def take(self, x: ir.Value, rows: AttentionRows) -> ir.Value:
        """The rows' tokens out of all tokens."""
        return x if rows.take is None else self.w.op("Gather", x, rows.take)

    def rotary(self, rope: RopeConfig, head_dim: int) -> Rotary:
        """cos/sin from the positions, in fp32 as HF computes them: no table, so no length limit."""
        inverse, scaling = rope_frequencies(rope, head_dim)
        unsqueezed = self.w.op("Unsqueeze", self.inputs.position_ids, self.w.constant("axes_1", [1]))
        positions = self.w.op("Cast", unsqueezed, to=DATA_TYPES["fp32"])
        angles = self.w.op("Mul", positions, self.w.constant("inv_freq", inverse[None], "fp32"))
        cos, sin = (self._scaled(self.w.op(op, angles), scaling) for op in ("Cos", "Sin"))
        read_index = self.inputs.read_rows.take
        assert read_index is not None  # declared just so
        read_cos, read_sin = (self.w.op("Gather", x, read_index) for x in (cos, sin))
        return Rotary(cos, sin, read_cos, read_sin, inverse.size, self.dtype)

    def rotate_for(self, x: ir.Value, heads: int, rotary: Rotary, rows: AttentionRows) -> ir.Value:
        """`rotate` with the angles of the rows' tokens."""
        if rows.take is None:
            return self.rotate(x, heads, rotary.cos, rotary.sin)
        return self.rotate(x, heads, rotary.read_cos, rotary.read_sin)

    def final_norm(self, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
        """The backbone's last norm, computed and returned in fp32, the dtype that heads read."""
        x = self._cast(x, self.stream_dtype, "fp32")
        scale = self.fp32_weight(f"{name}.weight", (size,))
        return self.w.op("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)

    # Words of the heads: all in fp32.

    def fp32_weight(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        """A head's weight in fp32, whatever its stored dtype."""
        value, stored = self.w.weight(name, shape, in_fp32=True)
        return self._cast(value, stored, "fp32")

    def head_linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        """`x @ weight.T + bias` in fp32; `name` is the weight's full name less `.weight`."""
        weight = self.fp32_weight(f"{name}.weight", features)
        extra = [self.fp32_weight(f"{name}.bias", features[:1])] if bias else []
        return self.w.op("Gemm", x, weight, *extra, transB=1)

    def row_sum(self, x: ir.Value, columns: int) -> ir.Value:
        """Sums of the rows of `[P, columns]`. As a product with ones: ReduceSum adds in an order that depends on P."""
        ones = self.w.constant(f"ones_{columns}", np.ones((1, columns), np.float32), "fp32")
        return self.w.op("Squeeze", self.w.op("Gemm", x, ones, transB=1), self.w.constant("axes_1", [1]))

    def head_index(self, role: str) -> ir.Value:
        """Input `{role}_index` [P]: which of the N read tokens is this role's position of result p."""
        return self.w.input(f"{role}_index", ["P"])

    def _scaled(self, x: ir.Value, scaling: float) -> ir.Value:
        if scaling != 1.0:
            x = self.w.op("Mul", x, self.w.constant("rope_scaling", np.float32(scaling), "fp32"))
        return self._cast(x, "fp32", self.dtype)

    def _cast(self, x: ir.Value, source: str, target: str) -> ir.Value:
        return x if source == target else self.w.op("Cast", x, to=DATA_TYPES[target])
