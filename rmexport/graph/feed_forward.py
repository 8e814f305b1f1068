"""Linear layers in a row with an activation between them: what most heads and gates are made of, all in fp32."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import onnx_ir as ir

from rmexport.checkpoint import TensorInfo
from rmexport.errors import CheckpointError
from rmexport.graph.head_writer import HeadWriter

Activation = Literal["relu", "selu", "tanh", "leaky_relu"]
_OPERATORS: Mapping[Activation, str] = {"relu": "Relu", "selu": "Selu", "tanh": "Tanh", "leaky_relu": "LeakyRelu"}


@dataclass(frozen=True, kw_only=True)
class LinearLayer:
    """`x @ name.weight.T + name.bias`, weight [outputs, inputs]."""

    name: str
    outputs: int
    inputs: int
    bias: bool


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """`layers` in order; `activation` after each but the last. LeakyReLU has torch's slope, 0.01."""

    layers: tuple[LinearLayer, ...]
    activation: Activation = "relu"

    def build(self, h: HeadWriter, x: ir.Value) -> ir.Value:
        """[P, inputs of the first] to [P, outputs of the last]."""
        for layer in self.layers[:-1]:
            x = h.w.op(_OPERATORS[self.activation], self._linear(h, x, layer))
        return self._linear(h, x, self.layers[-1])

    def build_value(self, h: HeadWriter, hidden: ir.Value) -> ir.Value:
        """[P]: the one output, of the tokens that the role "score" reads among `hidden` [N, inputs]."""
        values = self.build(h, h.read(hidden, "score"))
        return h.w.op("Squeeze", values, h.w.constant("axes_1", [1]))

    def reference(self, x: Any, weights: Mapping[str, Any]) -> Any:
        """`build` on torch tensors, in the dtype of the weights."""
        for layer in self.layers[:-1]:
            x = _activated(_product(x, layer, weights), self.activation)
        return _product(x, self.layers[-1], weights)

    @staticmethod
    def _linear(h: HeadWriter, x: ir.Value, layer: LinearLayer) -> ir.Value:
        return h.linear(x, layer.name, (layer.outputs, layer.inputs), bias=layer.bias)


def linear_value(name: str, inputs: int, *, bias: bool = False) -> FeedForward:
    """One layer with one output, `name.weight` [1, inputs]: the commonest head.

    >>> linear_value("score", 64).layers
    (LinearLayer(name='score', outputs=1, inputs=64, bias=False),)
    """
    return FeedForward(layers=(LinearLayer(name=name, outputs=1, inputs=inputs, bias=bias),))


def one_row_layers(tensors: Mapping[str, TensorInfo], inputs: int, embedding: str) -> dict[str, TensorInfo]:
    """Weights [1, inputs] outside the backbone's layers, by layer, the name without `.weight`: any may be the reward's.

    `embedding` is the backbone's own name of that weight, whatever its tensors are called before it.

    >>> info = TensorInfo(name="score.weight", dtype="fp32", shape=(1, 64), file="a", offset=0, nbytes=256)
    >>> list(one_row_layers({info.name: info}, 64, "model.embed_tokens.weight"))
    ['score']
    """
    leaf = ".".join(embedding.split(".")[-2:])
    return {
        name.removesuffix(".weight"): info
        for name, info in tensors.items()
        if info.shape == (1, inputs) and name.endswith(".weight")
        if ".layers." not in f".{name}" and not f".{name}".endswith(f".{leaf}")
    }


def read_feed_forward(
    tensors: Mapping[str, TensorInfo], names: Sequence[str], inputs: int, activation: Activation = "relu"
) -> FeedForward:
    """The layers `names` (full names without `.weight`), whose widths must follow from one another.

    Raises CheckpointError for a missing layer, a width that its predecessor does not have, and for biases that only
    some of the layers have.

    >>> info = TensorInfo(name="score.weight", dtype="fp32", shape=(1, 64), file="a", offset=0, nbytes=256)
    >>> read_feed_forward({info.name: info}, ["score"], 64) == linear_value("score", 64)
    True
    """
    layers = []
    for name in names:
        weight = tensors.get(f"{name}.weight")
        if weight is None or len(weight.shape) != 2 or weight.shape[1] != inputs:
            found = "missing" if weight is None else f"of shape {list(weight.shape)}"
            raise CheckpointError(f"{name}.weight is {found}, expected [*, {inputs}]: do config and weights belong?")
        layers.append(LinearLayer(name=name, outputs=weight.shape[0], inputs=inputs, bias=f"{name}.bias" in tensors))
        inputs = weight.shape[0]
    if len({layer.bias for layer in layers}) > 1:
        without = ", ".join(f"{layer.name}.bias" for layer in layers if not layer.bias)
        raise CheckpointError(f"{without} missing, the other layers have biases: is the download complete?")
    return FeedForward(layers=tuple(layers), activation=activation)


def _product(x: Any, layer: LinearLayer, weights: Mapping[str, Any]) -> Any:
    y = x @ weights[f"{layer.name}.weight"].T
    return y + weights[f"{layer.name}.bias"] if layer.bias else y


def _activated(x: Any, activation: Activation) -> Any:
    if activation == "leaky_relu":
        return x.where(x > 0, 0.01 * x)
    return getattr(x, activation)() if activation != "selu" else _selu(x)


def _selu(x: Any) -> Any:
    """arXiv 1706.02515, with its published constants."""
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    return scale * x.where(x > 0, alpha * (x.exp() - 1))
