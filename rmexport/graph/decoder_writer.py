"""What decoders are made of, besides what each engine spells in its own way: embeddings, norms, activations, casts.

Activations are 2-D, `[tokens, features]`. The residual stream has a dtype of its own, which some dialects keep wider
than the compute dtype of everything else; the last norm is fp32.
"""

from dataclasses import replace
from typing import Literal

import onnx_ir as ir

from rmexport.checkpoint.rope_config import RopeConfig
from rmexport.graph.attention import AttentionShape
from rmexport.graph.dialect import Dialect
from rmexport.graph.packed import AttentionRows
from rmexport.graph.paged import with_page_past
from rmexport.graph.rotary import RotaryAngles, rotary_angles
from rmexport.graph.stages import LayerSpan
from rmexport.graph.writer import Features
from rmruntime.bundle.graph_names import HIDDEN_IN, HIDDEN_OUT, PAST, TOKENS, past_names

Activation = Literal["silu", "gelu", "gelu_tanh"]


class DecoderWriter:
    """Adds a decoder's nodes to a graph: of all layers, or of a `span` of them; `past`: a graph with a past.

    `dialect` has the operations that engines spell differently, `w` (its GraphWriter) takes plain operators, `inputs`
    are the graph's. `dtype` is the compute dtype, `stream_dtype` that of the residual stream.
    """

    def __init__(self, dialect: Dialect, span: LayerSpan | None = None, *, past: bool = False) -> None:
        self.dialect, self.w, self.inputs = dialect, dialect.w, dialect.inputs
        self.dtype = dialect.dtype
        self.stream_dtype = dialect.STREAM_DTYPE or dialect.dtype
        self.span = span or LayerSpan()
        self.past = past

    def embed(self, name: str, shape: tuple[int, int]) -> ir.Value:
        """The residual stream [T, width]: rows of the embedding table `name.weight` for the packed tokens."""
        table, stored = self.w.weight(f"{name}.weight", shape)
        rows = self.w.op("Gather", table, self.inputs.input_ids)
        if self.dialect.TOKEN_CHUNK:
            rows = self.w.op("Reshape", rows, self.w.constant(f"flat_{shape[1]}", [-1, shape[1]]))
        return self.w.cast(rows, stored, self.stream_dtype)

    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        """`x @ weight.T + bias` with `name.weight` of shape `features` = (out, in) as HF stores it."""
        return self.dialect.linear(x, name, features, bias=bias)

    def expert_product(self, x: ir.Value, name: str, shape: tuple[int, int, int], expert: ir.Value) -> ir.Value:
        """`x @ weight.T` with one of the matrices in a stack `name` [experts, out, in].

        The cast follows the choice: the stack stays as it is stored.
        """
        stack, stored = self.w.weight(name, shape)
        weight = self.w.cast(self.w.op("Gather", stack, expert), stored, self.dtype)
        return self.dialect.product(x, weight)

    def rms_norm(self, x: ir.Value, name: str, size: int, epsilon: float, *, unit_offset: bool = False) -> ir.Value:
        """Root-mean-square norm of the stream over the last axis, statistics in fp32; in the compute dtype.

        `unit_offset`: the scale is 1 + weight (Gemma).
        """
        scale = self._norm_weight(f"{name}.weight", size, unit_offset=unit_offset)
        normed = self.w.op("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)
        return self.narrow(normed)

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
        return self.narrow(normed)

    def final_norm(self, x: ir.Value, name: str, size: int, epsilon: float, *, unit_offset: bool = False) -> ir.Value:
        """The backbone's last norm, computed and returned in fp32, the dtype that heads read."""
        x = self.w.cast(x, self.stream_dtype, "fp32")
        scale = self._offset(self.w.fp32_weight(f"{name}.weight", (size,)), unit_offset)
        return self.w.op("RMSNormalization", x, scale, axis=-1, epsilon=epsilon)

    def final_layer_norm(self, x: ir.Value, name: str, size: int, epsilon: float) -> ir.Value:
        """`final_norm` for a backbone whose last norm is a LayerNorm."""
        x = self.w.cast(x, self.stream_dtype, "fp32")
        weights = [self.w.fp32_weight(f"{name}.{part}", (size,)) for part in ("weight", "bias")]
        return self.w.op("LayerNormalization", x, *weights, axis=-1, epsilon=epsilon)

    def activate(self, x: ir.Value, activation: Activation) -> ir.Value:
        """An activation by its name in config.json."""
        if activation == "silu":
            return self.dialect.silu(x)
        return self.w.op("Gelu", x, approximate="none" if activation == "gelu" else "tanh")

    def gated(self, gate: ir.Value, up: ir.Value, activation: Activation = "silu") -> ir.Value:
        """`activation(gate) * up`."""
        return self.w.op("Mul", self.activate(gate, activation), up)

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Residual sum: the stream `x` and what a block adds to it, `y` in the compute dtype."""
        return self.dialect.residual_sum(x, self.widen(y))

    def scale_stream(self, x: ir.Value, factor: float) -> ir.Value:
        """The residual stream times a number."""
        return self.w.op("Mul", x, self.w.constant(f"stream_times_{factor}", factor, self.stream_dtype))

    def narrow(self, x: ir.Value) -> ir.Value:
        """The residual stream in the compute dtype, for products that read it without a norm."""
        return self.w.cast(x, self.stream_dtype, self.dtype)

    def widen(self, y: ir.Value) -> ir.Value:
        """A value of the compute dtype in the stream's, which norms read."""
        return self.w.cast(y, self.dtype, self.stream_dtype)

    def to_fp32(self, x: ir.Value) -> ir.Value:
        """A value of the compute dtype in fp32."""
        return self.w.cast(x, self.dtype, "fp32")

    def from_fp32(self, x: ir.Value) -> ir.Value:
        """An fp32 value in the compute dtype."""
        return self.w.cast(x, "fp32", self.dtype)

    def features(self, value: ir.Value, width: int) -> Features:
        """A value in the compute dtype, as `Dialect.tokenwise` takes it."""
        return Features(value, width, self.dtype)

    def stream(self, value: ir.Value, width: int) -> Features:
        """The residual stream, as `Dialect.tokenwise` takes it."""
        return Features(value, width, self.stream_dtype)

    def take(self, x: ir.Value, rows: AttentionRows) -> ir.Value:
        """The rows' tokens out of all tokens."""
        return x if rows.take is None else self.w.op("Gather", x, rows.take)

    def attention(
        self, layer: int, q: ir.Value, k: ir.Value, v: ir.Value, rows: AttentionRows, shape: AttentionShape
    ) -> ir.Value:
        """`Dialect.attention` of rotated queries, keys and values; in a graph with a past, over earlier tokens' too."""
        if self.past and rows.pages is not None:
            rows = replace(rows, pages=with_page_past(self.w, rows.pages, layer))
        elif self.past:
            k, v = self._with_past(layer, k, v, shape.kv_heads * shape.head_dim)
        return self.dialect.attention(q, k, v, rows, shape)

    def _with_past(self, layer: int, k: ir.Value, v: ir.Value, width: int) -> tuple[ir.Value, ir.Value]:
        """Rotated keys and values [., width]: of earlier tokens, then the pass's own, which become outputs."""
        names = past_names(layer)
        joined = []
        for taken, returned, own in ((names.keys_in, names.keys_out, k), (names.values_in, names.values_out, v)):
            self.w.expose(returned, own, [TOKENS, width], self.dtype)
            joined.append(self.w.op("Concat", self.w.input(taken, [PAST, width], self.dtype), own, axis=0))
        return joined[0], joined[1]

    def rotary(self, rope: RopeConfig, head_dim: int) -> RotaryAngles:
        """The angles of all tokens and of the scored ones, by their positions."""
        return rotary_angles(self.w, self.inputs, rope, head_dim, self.dtype, self.dialect.largest)

    def handed_over(self, width: int) -> ir.Value:
        """The residual stream [T, width] from the graph of the layers before this one's."""
        return self.w.input(HIDDEN_IN, [TOKENS, width], self.stream_dtype)

    def hand_over(self, x: ir.Value, width: int) -> None:
        """Make the residual stream the output for the graph of the next layers."""
        self.w.output(HIDDEN_OUT, x, [TOKENS, width], self.stream_dtype)

    def _norm_weight(self, name: str, size: int, *, unit_offset: bool = False) -> ir.Value:
        """A norm's weight in the stream's dtype; 1 is added in fp32, as 1 + w loses w's small bits otherwise."""
        if not unit_offset:
            return self.w.weight_as(name, (size,), self.stream_dtype)
        offset = self._offset(self.w.weight_as(name, (size,), "fp32"), unit_offset)
        return self.w.cast(offset, "fp32", self.stream_dtype)

    def _offset(self, weight: ir.Value, unit_offset: bool) -> ir.Value:
        return self.w.op("Add", weight, self.w.constant("one", 1.0, "fp32")) if unit_offset else weight
