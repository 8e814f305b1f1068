"""The decoder that most reward models have as backbone, written by a DecoderWriter; families override parts.

`DecoderLayers` is the pre-norm, gated, rotary decoder with grouped-query attention (Llama); its methods are the places
where families differ. `decode` runs the layers over a packed trie: keys and values for all tokens, but in the last
layer queries (where keys are found by rows) and all that follows only for the tokens that the head reads. A graph of
some of the layers (`DecoderWriter.span`) takes the residual stream from the graph of the layers before it and passes
its own on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from rmexport.checkpoint.rope_config import RopeConfig
from rmexport.graph.attention import AttentionShape
from rmexport.graph.decoder_writer import Activation, DecoderWriter
from rmexport.graph.rotary import Angles, RotaryAngles
from rmexport.graph.writer import Features


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What config.json says of a decoder, one form for all families.

    `ropes` and `windows` (in tokens, None for full attention) have one entry per layer. `attention_scale` multiplies
    the products of queries and keys; `softcap` bounds them. `unit_offset`: norms scale by 1 + weight. `head_norms`:
    each head of queries and keys is normed by itself. Embeddings are multiplied by `embedding_scale`. Queries and keys
    of the layers `unrotated` have no rotary embedding (NoPE), whatever their entry in `ropes`.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    norm_eps: float
    ropes: tuple[RopeConfig, ...]
    windows: tuple[int | None, ...]
    attention_scale: float
    softcap: float | None = None
    activation: Activation = "silu"
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    unit_offset: bool = False
    head_norms: bool = False
    embedding_scale: float = 1.0
    unrotated: frozenset[int] = frozenset()

    @property
    def query_size(self) -> int:
        """Features of all query heads."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_size(self) -> int:
        """Features of all key heads, and of all value heads."""
        return self.num_key_value_heads * self.head_dim

    @property
    def rope_length(self) -> int | None:
        """Sequences longer than this have other rotary frequencies than shorter ones; None where no length matters."""
        lengths = [rope.switch_length for rope in self.ropes if rope.switch_length is not None]
        return min(lengths, default=None)

    @property
    def rope_exact(self) -> bool:
        """Whether every length beyond `rope_length` has frequencies of its own."""
        return any(rope.kind == "dynamic" for rope in self.ropes)


class DecoderLayers:
    """The layers of Llama; a family overrides the methods in which it differs. `i` is a layer's number."""

    PREFIX = "model"
    ATTENTION, MLP = "self_attn", "mlp"

    def __init__(self, d: DecoderWriter, c: DecoderConfig) -> None:
        self.d, self.c = d, c

    def layer(self, i: int) -> str:
        """The beginning of a layer's tensor names."""
        return f"{self.PREFIX}.layers.{i}"

    def attention_name(self, i: int) -> str:
        """The beginning of the names of a layer's attention projections."""
        return f"{self.layer(i)}.{self.ATTENTION}"

    def shape(self, i: int) -> AttentionShape:
        """The numbers of a layer's attention."""
        c = self.c
        return AttentionShape(
            heads=c.num_attention_heads,
            kv_heads=c.num_key_value_heads,
            head_dim=c.head_dim,
            scale=c.attention_scale,
            window=c.windows[i],
            softcap=c.softcap,
        )

    def embed(self) -> ir.Value:
        """The residual stream before the first layer."""
        x = self.d.embed(f"{self.PREFIX}.embed_tokens", (self.c.vocab_size, self.c.hidden_size))
        return x if self.c.embedding_scale == 1.0 else self.d.scale_stream(x, self.c.embedding_scale)

    def norm(self, x: ir.Value, name: str) -> ir.Value:
        """Any norm of the stream."""
        c = self.c
        return self.d.rms_norm(x, name, c.hidden_size, c.norm_eps, unit_offset=c.unit_offset)

    def attention_input(self, i: int, x: ir.Value) -> ir.Value:
        """[tokens, hidden], from which queries, keys and values are computed."""
        return self.norm(x, f"{self.layer(i)}.input_layernorm")

    def queries(self, i: int, y: ir.Value, angles: Angles | None) -> ir.Value:
        """[tokens, heads * head_dim], rotated and scaled by position; as they are where the layer has no angles."""
        c, name = self.c, f"{self.attention_name(i)}.q_proj"
        q = self.d.linear(y, name, (c.query_size, c.hidden_size), bias=c.qkv_bias)
        return self._scaled(self._rotated(self.normed_queries(i, q), c.num_attention_heads, angles), angles)

    def keys(self, i: int, y: ir.Value, angles: Angles | None) -> ir.Value:
        """[tokens, key heads * head_dim], rotated; as they are where the layer has no angles."""
        c, name = self.c, f"{self.attention_name(i)}.k_proj"
        k = self.d.linear(y, name, (c.key_size, c.hidden_size), bias=c.qkv_bias)
        return self._rotated(self.normed_keys(i, k), c.num_key_value_heads, angles)

    def values(self, i: int, y: ir.Value) -> ir.Value:
        """[tokens, key heads * head_dim]."""
        c, name = self.c, f"{self.attention_name(i)}.v_proj"
        return self.d.linear(y, name, (c.key_size, c.hidden_size), bias=c.qkv_bias)

    def normed_queries(self, i: int, q: ir.Value) -> ir.Value:
        """Queries before they are rotated."""
        return self._head_norm(q, f"{self.attention_name(i)}.q_norm", self.c.num_attention_heads)

    def normed_keys(self, i: int, k: ir.Value) -> ir.Value:
        """Keys before they are rotated."""
        return self._head_norm(k, f"{self.attention_name(i)}.k_norm", self.c.num_key_value_heads)

    def attention_output(self, i: int, mixed: ir.Value) -> ir.Value:
        """What attention adds to the stream."""
        c, name = self.c, f"{self.attention_name(i)}.o_proj"
        return self.d.linear(mixed, name, (c.hidden_size, c.query_size), bias=c.output_bias)

    def attended(self, i: int, x: ir.Value, mixed: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The stream after attention, and the input of the MLP."""
        x = self.d.add(x, self.attention_output(i, mixed))
        return x, self.norm(x, f"{self.layer(i)}.post_attention_layernorm")

    def mlp(self, i: int, y: ir.Value) -> ir.Value:
        """[tokens, hidden]: the MLP of `y`, which `attended` returned."""
        c, name = self.c, f"{self.layer(i)}.{self.MLP}"
        gate, up = (
            self.d.linear(y, f"{name}.{part}", (c.intermediate_size, c.hidden_size), bias=c.mlp_bias)
            for part in ("gate_proj", "up_proj")
        )
        mixed = self.d.gated(gate, up, c.activation)
        return self.d.linear(mixed, f"{name}.down_proj", (c.hidden_size, c.intermediate_size), bias=c.mlp_bias)

    def joined(self, i: int, x: ir.Value, y: ir.Value) -> ir.Value:
        """The stream after the layer: the stream that `attended` returned, plus the MLP's output."""
        return self.d.add(x, y)

    def is_routed(self, i: int) -> bool:
        """Whether `mlp` must see all tokens at once, because each goes to experts of its own."""
        return False

    def final(self, x: ir.Value) -> ir.Value:
        """The last norm, fp32."""
        c = self.c
        return self.d.final_norm(x, f"{self.PREFIX}.norm", c.hidden_size, c.norm_eps, unit_offset=c.unit_offset)

    def _rotated(self, x: ir.Value, heads: int, angles: Angles | None) -> ir.Value:
        return x if angles is None else self.d.dialect.rotate(x, heads, angles)

    def _scaled(self, q: ir.Value, angles: Angles | None) -> ir.Value:
        return q if angles is None or angles.query_scale is None else self.d.w.op("Mul", q, angles.query_scale)

    def _head_norm(self, x: ir.Value, name: str, heads: int) -> ir.Value:
        c = self.c
        if not c.head_norms:
            return x
        return self.d.head_norm(x, name, heads, c.head_dim, c.norm_eps, unit_offset=c.unit_offset)


class FourNormLayers(DecoderLayers):
    """Four norms per layer: before and after attention, before and after the MLP (Gemma 2 and 3)."""

    AFTER_ATTENTION = "post_attention_layernorm"
    BEFORE_MLP, AFTER_MLP = "pre_feedforward_layernorm", "post_feedforward_layernorm"

    def attended(self, i: int, x: ir.Value, mixed: ir.Value) -> tuple[ir.Value, ir.Value]:
        y = self.d.widen(self.attention_output(i, mixed))
        x = self.d.add(x, self.norm(y, f"{self.layer(i)}.{self.AFTER_ATTENTION}"))
        return x, self.norm(x, f"{self.layer(i)}.{self.BEFORE_MLP}")

    def joined(self, i: int, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.d.add(x, self.norm(self.d.widen(y), f"{self.layer(i)}.{self.AFTER_MLP}"))


class PostNormLayers(DecoderLayers):
    """Two norms per layer, after attention and after the MLP, which read the stream as it is (OLMo 2, EXAONE 4)."""

    def attention_input(self, i: int, x: ir.Value) -> ir.Value:
        return self.d.narrow(x)

    def attended(self, i: int, x: ir.Value, mixed: ir.Value) -> tuple[ir.Value, ir.Value]:
        y = self.d.widen(self.attention_output(i, mixed))
        x = self.d.add(x, self.norm(y, f"{self.layer(i)}.post_attention_layernorm"))
        return x, self.d.narrow(x)

    def joined(self, i: int, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.d.add(x, self.norm(self.d.widen(y), f"{self.layer(i)}.post_feedforward_layernorm"))


class WideNormLayers(PostNormLayers):
    """The same with a norm over all features of a token's queries, and one over its keys (OLMo 2 and 3)."""

    def normed_queries(self, i: int, q: ir.Value) -> ir.Value:
        return self._wide_norm(q, f"{self.attention_name(i)}.q_norm", self.c.query_size)

    def normed_keys(self, i: int, k: ir.Value) -> ir.Value:
        return self._wide_norm(k, f"{self.attention_name(i)}.k_norm", self.c.key_size)

    def _wide_norm(self, x: ir.Value, name: str, size: int) -> ir.Value:
        return self.d.rms_norm(self.d.widen(x), name, size, self.c.norm_eps)


def decode(layers: DecoderLayers) -> ir.Value:
    """Final hidden states of the tokens read, fp32 [N, hidden]; of a graph that ends before the last layer, its stream.

    The stream is that of all tokens, [T, hidden], in the writer's `stream_dtype`.
    """
    return _Decoding(layers).run()


class _Decoding:
    """One pass over the graph's layers. What is done to each token by itself is left to `Dialect.tokenwise`."""

    def __init__(self, layers: DecoderLayers) -> None:
        self.layers, self.d, self.c = layers, layers.d, layers.c
        self.last = self.c.num_hidden_layers - 1
        # The layer that computes queries of the scored tokens alone; by pages all tokens' cost less than a mask.
        self.pruned = None if self.d.dialect.PAGE_SIZE else self.last
        self.span = self.d.span.of(self.c.num_hidden_layers)
        ropes = (self.c.ropes[i] for i in self.span if i not in self.c.unrotated)
        self._rotaries = {rope: self.d.rotary(rope, self.c.head_dim) for rope in dict.fromkeys(ropes)}

    def run(self) -> ir.Value:
        d, layers, first, last = self.d, self.layers, self.span[0], self.span[-1]
        x = d.handed_over(self.c.hidden_size) if first else layers.embed()
        inputs, widths = [self._stream(x), *self._angle_features(first)], self._widths(first)
        q, k, v = d.dialect.tokenwise(partial(self._project, first), inputs, widths)
        for i in range(first, last):
            x, q, k, v = self._step(i, x, self._attend(i, q, k, v))
        return self._read(x, q, k, v) if last == self.last else self._hand_over(last, x, self._attend(last, q, k, v))

    def _attend(self, i: int, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        return self.d.attention(i, q, k, v, self.d.inputs.all_rows, self.layers.shape(i))

    def _read(self, x: ir.Value, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        """The model's last layer, from the results of `_project`."""
        d, layers, i, rows = self.d, self.layers, self.last, self.d.inputs.read_rows
        if i == self.pruned:
            q = layers.queries(i, d.take(q, rows), None if i in self.c.unrotated else self._angles(i).scored)
        x, y = layers.attended(i, d.take(x, rows), d.attention(i, q, k, v, rows, layers.shape(i)))
        return layers.final(layers.joined(i, x, layers.mlp(i, y)))

    def _step(self, i: int, x: ir.Value, mixed: ir.Value) -> Sequence[ir.Value]:
        """From the attention of layer i to that of the next: the stream, and the results of `_project`."""
        return self._rest(i, x, mixed, i + 1)

    def _hand_over(self, i: int, x: ir.Value, mixed: ir.Value) -> ir.Value:
        """From the attention of the graph's last layer i to the stream after it."""
        [x] = self._rest(i, x, mixed, None)
        return x

    def _rest(self, i: int, x: ir.Value, mixed: ir.Value, following: int | None) -> Sequence[ir.Value]:
        """The rest of layer i after its attention and, where there is one, the `following` layer's projections."""
        d, c = self.d, self.c
        angles = () if following is None else self._angle_features(following)
        widths = (c.hidden_size,) if following is None else (c.hidden_size, *self._widths(following))
        inputs = [self._stream(x), d.features(mixed, c.query_size)]
        if not self.layers.is_routed(i):
            return d.dialect.tokenwise(partial(self._finish, i, following), [*inputs, *angles], widths)
        x, y = d.dialect.tokenwise(partial(self.layers.attended, i), inputs, (c.hidden_size, c.hidden_size))
        inputs = [self._stream(x), d.features(self.layers.mlp(i, y), c.hidden_size)]
        return d.dialect.tokenwise(partial(self._join, i, following), [*inputs, *angles], widths)

    def _finish(
        self, i: int, following: int | None, x: ir.Value, mixed: ir.Value, *angles: ir.Value
    ) -> tuple[ir.Value, ...]:
        x, y = self.layers.attended(i, x, mixed)
        return self._join(i, following, x, self.layers.mlp(i, y), *angles)

    def _join(self, i: int, following: int | None, x: ir.Value, y: ir.Value, *angles: ir.Value) -> tuple[ir.Value, ...]:
        x = self.layers.joined(i, x, y)
        return (x,) if following is None else (x, *self._project(following, x, *angles))

    def _project(self, i: int, x: ir.Value, *of_tokens: ir.Value) -> tuple[ir.Value, ...]:
        """Queries, keys and values of layer i; a layer that needs few queries returns their input."""
        angles, y = Angles(*of_tokens) if of_tokens else None, self.layers.attention_input(i, x)
        k, v = self.layers.keys(i, y, angles), self.layers.values(i, y)
        return y if i == self.pruned else self.layers.queries(i, y, angles), k, v

    def _widths(self, i: int) -> tuple[int, int, int]:
        """Widths of the results of `_project`."""
        return (self.c.hidden_size if i == self.pruned else self.c.query_size), self.c.key_size, self.c.key_size

    def _stream(self, x: ir.Value) -> Features:
        return self.d.stream(x, self.c.hidden_size)

    def _angles(self, i: int) -> RotaryAngles:
        return self._rotaries[self.c.ropes[i]]

    def _angle_features(self, i: int) -> tuple[Features, ...]:
        """cos and sin of all tokens, as layer i rotates them, and the scale of its queries; () where it does not."""
        if i in self.c.unrotated:
            return ()
        every, width = self._angles(i).every, self.c.head_dim // 2
        scale = () if every.query_scale is None else (self.d.features(every.query_scale, 1),)
        return self.d.features(every.cos, width), self.d.features(every.sin, width), *scale
