"""The small vocabulary in which families and heads are written; a dialect decides which ONNX nodes each word becomes.

Activations are 2-D, `[tokens, features]`, in the graph's compute dtype; heads and the final norm are fp32.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rmexport.checkpoint.rope_config import RopeConfig
from rmexport.graph.packed import AttentionRows, PackedInputs, declare_packed_inputs
from rmexport.graph.quantized_matrices import dequantize_linear
from rmexport.graph.rope_frequencies import inverse_frequencies
from rmexport.graph.writer import DATA_TYPES, Features, GraphWriter
from rmexport.weights.quantization import Quantized
from rmruntime.bundle.manifest import HIDDEN_IN, HIDDEN_OUT, Scheme

Activation = Literal["silu", "gelu", "gelu_tanh"]


@dataclass(frozen=True, kw_only=True)
class LayerSpan:
    """The layers `first` to `end` - 1 that a graph computes; `end` None: all from `first` on."""

    first: int = 0
    end: int | None = None

    def of(self, layers: int) -> range:
        """The layers' numbers, in a backbone of `layers` layers."""
        return range(self.first, layers if self.end is None else self.end)


@dataclass(frozen=True)
class Rotary:
    """cos and sin of every token's angles, [T, rotary_dim / 2], and of the tokens that a head reads, [N, ...]."""

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
    """The numbers of one attention layer: query heads, key/value heads, head size, score scale.

    `window` is the sliding window in tokens; scores become `softcap * tanh(score / softcap)`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    softcap: float | None = None


class Dialect(ABC):
    """The operations that families and heads use, over one GraphWriter. Subclasses are in rmexport/dialects."""

    NAME: ClassVar[str]
    KEY_MULTIPLE: ClassVar[int] = 16
    ROW_GROUPS: ClassVar[int] = 1
    STREAM_DTYPE: ClassVar[str | None] = None  # of the residual stream; None: the compute dtype
    PAGE_SIZE: ClassVar[int] = 0  # keys per page, where tokens find their keys by pages; 0: by attention rows
    SCHEMES: ClassVar[tuple[Scheme, ...]] = get_args(Scheme)  # of quantized matrices that it supports
    LEAST_QUANTIZED_ROWS: ClassVar[int] = 2  # of quantized products: engines round fewer differently
    TOKEN_CHUNK: ClassVar[int] = 0  # tokens that `tokenwise` takes at a time; 0: all at once

    def __init__(self, writer: GraphWriter, compute_dtype: str) -> None:
        self.w = writer
        self.dtype = compute_dtype
        self.span = LayerSpan()
        self.stream_dtype = self.STREAM_DTYPE or self.dtype
        self.inputs: PackedInputs = declare_packed_inputs(
            writer, self.ROW_GROUPS, chunked=bool(self.TOKEN_CHUNK), paged=bool(self.PAGE_SIZE)
        )

    @classmethod
    @abstractmethod
    def compute_dtypes(cls, bundle_dtype: str) -> tuple[str, ...]:
        """The dtypes of the activations for a bundle of this dtype: one graph each."""

    @abstractmethod
    def product(self, x: ir.Value, weight: ir.Value) -> ir.Value:
        """`x @ weight.T` with `weight` [out, in] in the compute dtype, as HF stores it."""

    @abstractmethod
    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        """`x @ weight.T + bias` with `name.weight` of shape `features` = (out, in) as HF stores it."""

    @abstractmethod
    def rotate(self, x: ir.Value, heads: int, cos: ir.Value, sin: ir.Value) -> ir.Value:
        """Rotary embedding on `[tokens, heads * head_dim]`, half-split as HF does it."""

    @abstractmethod
    def attention(self, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape) -> ir.Value:
        """Causal attention of the rows' queries over their keys: `[tokens of the rows, heads * head_dim]`."""

    def silu(self, x: ir.Value) -> ir.Value:
        """`x * sigmoid(x)`."""
        return self.w.op("Mul", x, self.w.op("Sigmoid", x))

    def tokenwise(
        self, body: Callable[..., Sequence[ir.Value]], inputs: Sequence[Features], widths: Sequence[int]
    ) -> Sequence[ir.Value]:
        """`body(*values)`, work on each token by itself, which a dialect may do in chunks of tokens.

        `widths` are those of the results, each [tokens, width].
        """
        return body(*(x.value for x in inputs))

    # Operations that every dialect writes alike.

    def weight(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        """A backbone's weight in the compute dtype."""
        value, stored = self.w.weight(name, shape)
        return self._cast(value, stored, self.dtype)

    def matrix(self, name: str, shape: tuple[int, int]) -> ir.Value:
        """A linear layer's weight [out, in] in the compute dtype, quantized or not: what `linear` reads."""
        how = self.w.how_quantized(name)
        if how is not None:
            return self.dequantized(name, how)
        value, stored = self.w.weight(name, shape, linear=True)
        return self._cast(value, stored, self.dtype)

    def dequantized(self, name: str, how: Quantized) -> ir.Value:
        """`matrix` of a quantized weight."""
        return dequantize_linear(self.w, name, how, self.dtype)

    def slice_of(self, name: str, shape: tuple[int, ...], index: ir.Value) -> ir.Value:
        """`weight(name)[index]`, cast after it is taken: a stack of experts stays as it is stored."""
        stack, stored = self.w.weight(name, shape)
        return self._cast(self.w.op("Gather", stack, index), stored, self.dtype)

    def to_fp32(self, x: ir.Value) -> ir.Value:
        """A value of the compute dtype in fp32."""
        return self._cast(x, self.dtype, "fp32")

    def from_fp32(self, x: ir.Value) -> ir.Value:
        """An fp32 value in the compute dtype."""
        return self._cast(x, "fp32", self.dtype)

    def embed(self, name: str, shape: tuple[int, int]) -> ir.Value:
        """Rows of the embedding table for the packed tokens."""
        table, stored = self.w.weight(f"{name}.weight", shape)
        rows = self.w.op("Gather", table, self.inputs.input_ids)
        if self.TOKEN_CHUNK:
            rows = self.w.op("Reshape", rows, self.w.constant(f"flat_{shape[1]}", [-1, shape[1]]))
        return self._cast(rows, stored, self.stream_dtype)

    def handed_over(self, width: int) -> ir.Value:
        """The residual stream [T, width] from the graph of the layers before this one's."""
        return self.w.input(HIDDEN_IN, ["T", width], self.stream_dtype)

    def hand_over(self, x: ir.Value, width: int) -> None:
        """Make the residual stream the output for the graph of the next layers."""
        self.w.output(HIDDEN_OUT, x, ["T", width], self.stream_dtype)

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

    def rms_norm(self, x: ir.Value, name: str, size: int, epsilon: float, *, unit_offset: bool = False) -> ir.Value:
        """Root-mean-square norm of the stream over the last axis, statistics in fp32; in the compute dtype.

        `unit_offset`: the scale is 1 + weight (Gemma).
        """
        scale = self._norm_weight(f"{name}.weight", size, unit_offset=unit_offset)
        normed = self.w.op("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)
        return self._cast(normed, self.stream_dtype, self.dtype)

    def head_norm(
        self, x: ir.Value, name: str, heads: int, head_dim: int, epsilon: float, *, unit_offset: bool = False
    ) -> ir.Value:
        """`rms_norm` of every head of `[tokens, heads * head_dim]` by itself, all with one weight [head_dim]."""
        split = self.w.constant(f"heads_of_{heads}_{head_dim}", [-1, heads, head_dim])
        by_head = self.widen(self.w.op("Reshape", x, split))
        normed = self.rms_norm(by_head, name, head_dim, epsilon, unit_offset=unit_offset)
        return self.w.op("Reshape", normed, self.w.constant(f"flat_{heads * head_dim}", [-1, heads * head_dim]))

    def layer_norm(self, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
        """LayerNorm of the stream with weight and bias, statistics in fp32; in the compute dtype."""
        weights = [self._norm_weight(f"{name}.{part}", size) for part in ("weight", "bias")]
        normed = self.w.op("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)
        return self._cast(normed, self.stream_dtype, self.dtype)

    def activate(self, x: ir.Value, activation: Activation) -> ir.Value:
        """An activation by its name in config.json."""
        if activation == "silu":
            return self.silu(x)
        return self.w.op("Gelu", x, approximate="none" if activation == "gelu" else "tanh")

    def gated(self, gate: ir.Value, up: ir.Value, activation: Activation = "silu") -> ir.Value:
        """`activation(gate) * up`."""
        return self.w.op("Mul", self.activate(gate, activation), up)

    def scale_stream(self, x: ir.Value, factor: float) -> ir.Value:
        """The residual stream times a number."""
        return self.w.op("Mul", x, self.w.constant(f"stream_times_{factor}", factor, self.stream_dtype))

    def capped(self, scores: ir.Value, softcap: float | None) -> ir.Value:
        """`softcap * tanh(scores / softcap)`, or the scores as they are without one."""
        if softcap is None:
            return scores
        cap = self.w.constant(f"softcap_{softcap}", softcap, self.dtype)
        return self.w.op("Mul", self.w.op("Tanh", self.w.op("Div", scores, cap)), cap)

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Residual sum: the stream `x` and what a block adds to it."""
        return self.w.op("Add", x, self.widen(y))

    def take(self, x: ir.Value, rows: AttentionRows) -> ir.Value:
        """The rows' tokens out of all tokens."""
        return x if rows.take is None else self.w.op("Gather", x, rows.take)

    def rotary(self, rope: RopeConfig, head_dim: int) -> Rotary:
        """cos/sin from the positions, in fp32 as HF computes them: no table, so no length limit.

        Where only a part of each head is rotated, angles of the rest are 0; see `rmexport.graph.partial_rotary`.
        """
        unsqueezed = self.w.op("Unsqueeze", self.inputs.position_ids, self.w.constant("axes_1", [1]))
        positions = self.w.op("Cast", unsqueezed, to=DATA_TYPES["fp32"])
        inverse, scaling = inverse_frequencies(self.w, rope, head_dim, positions)
        angles = self.w.op("Mul", positions, inverse)
        cos, sin = (self._scaled(self.w.op(op, angles), scaling) for op in ("Cos", "Sin"))
        read_index = self.inputs.read_rows.take
        assert read_index is not None  # `declare_packed_inputs` always declares it
        read_cos, read_sin = (self.w.op("Gather", x, read_index) for x in (cos, sin))
        return Rotary(cos, sin, read_cos, read_sin, head_dim // 2, self.dtype)

    def final_norm(self, x: ir.Value, name: str, size: int, epsilon: float, *, unit_offset: bool = False) -> ir.Value:
        """The backbone's last norm, computed and returned in fp32, the dtype that heads read."""
        x = self._cast(x, self.stream_dtype, "fp32")
        scale = self._offset(self.fp32_weight(f"{name}.weight", (size,)), unit_offset)
        return self.w.op("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)

    def final_layer_norm(self, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
        """`final_norm` for a backbone whose last norm is a LayerNorm."""
        x = self._cast(x, self.stream_dtype, "fp32")
        weights = [self.fp32_weight(f"{name}.{part}", (size,)) for part in ("weight", "bias")]
        return self.w.op("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    # Operations of the heads: all in fp32.

    def fp32_weight(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        """A head's weight in fp32, whatever its stored dtype."""
        value, stored = self.w.weight(name, shape, in_fp32=True)
        return self._cast(value, stored, "fp32")

    def head_linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        """`x @ weight.T + bias` in fp32; `name` is the weight's full name without `.weight`."""
        weight = self.fp32_weight(f"{name}.weight", features)
        extra = [self.fp32_weight(f"{name}.bias", features[:1])] if bias else []
        return self.w.op("Gemm", x, weight, *extra, transB=1)

    def row_sum(self, x: ir.Value, columns: int) -> ir.Value:
        """Sums of the rows of `[P, columns]`. As a product with ones: ReduceSum's order may depend on P."""
        ones = self.w.constant(f"ones_{columns}", np.ones((1, columns), np.float32), "fp32")
        return self.w.op("Squeeze", self.w.op("Gemm", x, ones, transB=1), self.w.constant("axes_1", [1]))

    def head_index(self, role: str) -> ir.Value:
        """Input `{role}_index` [P]: which of the N read tokens is this role's position of result p."""
        return self.w.input(f"{role}_index", ["P"])

    def _norm_weight(self, name: str, size: int, *, unit_offset: bool = False) -> ir.Value:
        """A norm's weight in the stream's dtype; 1 is added in fp32, as 1 + w loses w's small bits otherwise."""
        value, stored = self.w.weight(name, (size,))
        if not unit_offset:
            return self._cast(value, stored, self.stream_dtype)
        return self._cast(self._offset(self._cast(value, stored, "fp32"), True), "fp32", self.stream_dtype)

    def _offset(self, weight: ir.Value, unit_offset: bool) -> ir.Value:
        return self.w.op("Add", weight, self.w.constant("one", 1.0, "fp32")) if unit_offset else weight

    def _scaled(self, x: ir.Value, scaling: NDArray[np.float32] | float) -> ir.Value:
        if not isinstance(scaling, float) or scaling != 1.0:
            x = self.w.op("Mul", x, self.w.constant("rope_scaling", np.float32(scaling), "fp32"))
        return self._cast(x, "fp32", self.dtype)

    def _cast(self, x: ir.Value, source: str, target: str) -> ir.Value:
        return x if source == target else self.w.op("Cast", x, to=DATA_TYPES[target])
