"""Adds nodes, constants, inputs and weights to one ONNX graph, whatever the model and the engine."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from rmexport.errors import ExportError
from rmexport.weights.quantization import Quantized
from rmexport.weights.weight_spec import WeightLocation, WeightRequest

OPSET = 23  # Attention, RMSNormalization and RotaryEmbedding are standard since 23; engines disagree on 24 and later
IR_VERSION = 11
CONTRIB = "com.microsoft"

DATA_TYPES = {
    "fp32": ir.DataType.FLOAT,
    "fp16": ir.DataType.FLOAT16,
    "bf16": ir.DataType.BFLOAT16,
    "int32": ir.DataType.INT32,
    "int64": ir.DataType.INT64,
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "uint4": ir.DataType.UINT4,
    "fp8_e4m3": ir.DataType.FLOAT8E4M3FN,
}

Rewrite = Callable[[list[ir.Node]], list[ir.Node]]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Features:
    """One feature vector per token: `value` [tokens, width] of `dtype`."""

    value: ir.Value
    width: int
    dtype: str


@dataclass(frozen=True)
class Slice:
    """One input of a scan's body: its dimensions (None: known only when it runs) and dtype."""

    dims: Sequence[int | None]
    dtype: str


@dataclass
class GraphWriter:
    """Collects one graph. `locations` None makes a dry run that only records which weights are read.

    `rewrites` are run over the nodes of the finished graph, in turn. Without `node_names` only values have names.
    """

    locations: Mapping[str, WeightLocation] | None
    requests: dict[str, WeightRequest] = field(default_factory=dict)
    rewrites: list[Rewrite] = field(default_factory=list)
    node_names: bool = True
    _nodes: list[ir.Node] = field(default_factory=list)
    _inputs: list[ir.Value] = field(default_factory=list)
    _outputs: list[ir.Value] = field(default_factory=list)
    _initializers: dict[str, ir.Value] = field(default_factory=dict)
    _shared: dict[Hashable, Any] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _domains: dict[str, int] = field(default_factory=lambda: {"": OPSET})

    def op(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """One node with one output."""
        return self.ops(op_type, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """One node with several outputs."""
        number = self._counts[op_type] = self._counts.get(op_type, -1) + 1
        name = f"{op_type}_{number}"
        node = ir.node(op_type, inputs, attributes, domain=domain, num_outputs=outputs, name=name)
        for index, value in enumerate(node.outputs):
            value.name = name if outputs == 1 else f"{name}_{index}"
        if domain:
            self._domains[domain] = 1
        self._nodes.append(node)
        return node.outputs

    def cast(self, x: ir.Value, source: str, target: str) -> ir.Value:
        """`x` of dtype `source` in dtype `target`; no node where they are the same."""
        return x if source == target else self.op("Cast", x, to=DATA_TYPES[target])

    def shared(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The result of `make`, which is called once per graph and key: most nodes of a mask serve every layer.

        >>> w = GraphWriter(None)
        >>> w.shared("ones", lambda: w.constant("ones", [1])) is w.shared("ones", lambda: w.constant("ones", [1]))
        True
        """
        if key not in self._shared:
            self._shared[key] = make()
        made: Made = self._shared[key]
        return made

    def scan_chunks(
        self, body: Callable[..., Sequence[ir.Value]], inputs: Sequence[Features], shape: ir.Value
    ) -> Sequence[ir.Value]:
        """`body` on consecutive chunks of tokens; `shape` [2] = (chunks, tokens of each).

        Results are [chunks, tokens of each, width].
        """
        slices = [Slice([None, x.width], x.dtype) for x in inputs]
        return self.scan(body, [self._chunked(x, shape) for x in inputs], slices)

    def scan(
        self, body: Callable[..., Sequence[ir.Value]], inputs: Sequence[ir.Value], slices: Sequence[Slice]
    ) -> Sequence[ir.Value]:
        """`body` on each slice along the inputs' first axis, results stacked; weights and constants stay outside."""
        number = self._counts["Scan"] = self._counts.get("Scan", -1) + 1
        values = [
            ir.Value(name=f"chunk_{number}_{i}", shape=ir.Shape(s.dims), type=ir.TensorType(DATA_TYPES[s.dtype]))
            for i, s in enumerate(slices)
        ]
        outside, self._nodes = self._nodes, []
        # OpenVINO takes a body's input that is an output too for one input more.
        results = [self.op("Identity", x) if any(x is value for value in values) else x for x in body(*values)]
        graph = ir.Graph(values, results, nodes=self._nodes, name=f"chunk_{number}")
        self._nodes = outside
        return self.ops("Scan", *inputs, outputs=len(results), body=graph, num_scan_inputs=len(inputs))

    def _chunked(self, x: Features, shape: ir.Value) -> ir.Value:
        """Each value's chunks, and each width's shape, are made once: a graph has many layers."""
        width = f"width_{x.width}"
        sizes = self.shared(width, lambda: self.op("Concat", shape, self.constant(width, [x.width]), axis=0))
        return self.shared(("chunks", x.value.name), lambda: self.op("Reshape", x.value, sizes))

    def constant(self, name: str, array: Any, dtype: str = "int64") -> ir.Value:
        """A small constant; a second call with the same name returns the same value.

        Raises ExportError where a name is given to two different values.
        """
        values = np.asarray(array).astype(DATA_TYPES[dtype].numpy())
        if name not in self._initializers:
            self._add_initializer(name, ir.tensor(values, name=name))
        known = self._initializers[name].const_value
        if known is None or known.shape != values.shape or known.numpy().tobytes() != values.tobytes():
            raise ExportError(f"constant {name} has two values in one graph; one of them needs another name")
        return self._initializers[name]

    def weight(
        self, name: str, shape: tuple[int, ...], *, in_fp32: bool = False, linear: bool = False
    ) -> tuple[ir.Value, str]:
        """A weight of the bundle and its stored dtype; it stays in its safetensors file."""
        known = self.requests.get(name)
        self.requests[name] = WeightRequest(name, shape, in_fp32, linear and (known is None or known.linear))
        if self.locations is None:
            return ir.Value(name=name), "fp32"
        at = self.locations[name]
        if at.shape != shape and at.quant is None:
            raise ExportError(f"weight {name}: stored with shape {at.shape}, the graph reads {shape}")
        if at.quant is not None:
            raise ExportError(f"weight {name} is quantized, and its codes alone are no weight: read it with `matrix`")
        return self.view(name, at.dtype, shape), at.dtype

    def weight_as(self, name: str, shape: tuple[int, ...], dtype: str, *, linear: bool = False) -> ir.Value:
        """`weight` in `dtype`, whatever its stored dtype."""
        value, stored = self.weight(name, shape, linear=linear)
        return self.cast(value, stored, dtype)

    def fp32_weight(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        """A weight of fp32 arithmetic, whatever its stored dtype."""
        value, stored = self.weight(name, shape, in_fp32=True)
        return self.cast(value, stored, "fp32")

    def fp32_linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        """`x @ weight.T + bias` in fp32, with `name.weight` of shape `features` = (out, in)."""
        weight = self.fp32_weight(f"{name}.weight", features)
        extra = [self.fp32_weight(f"{name}.bias", features[:1])] if bias else []
        return self.op("Gemm", x, weight, *extra, transB=1)

    def read_locations(self) -> set[WeightLocation]:
        """Where the weights lie that the graph reads; tied weights are one."""
        held = (name for name, value in self._initializers.items() if isinstance(value.const_value, ir.ExternalTensor))
        return {(self.locations or {})[name] for name in held}

    def how_quantized(self, name: str) -> Quantized | None:
        """How a matrix is stored; None where it is not quantized, and in a dry run."""
        return None if self.locations is None else self.locations[name].quant

    def view(self, name: str, dtype: str, shape: tuple[int, ...]) -> ir.Value:
        """A stored weight's bytes as a tensor of this dtype and shape."""
        if name not in self._initializers:
            at = (self.locations or {})[name]
            tensor = ir.ExternalTensor(
                at.file, at.offset, at.nbytes, DATA_TYPES[dtype], shape=ir.Shape(shape), name=name
            )
            self._add_initializer(name, tensor)
        return self._initializers[name]

    def _add_initializer(self, name: str, tensor: ir.TensorProtocol) -> None:
        self._initializers[name] = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )

    def input(self, name: str, dims: Sequence[int | str], dtype: str = "int64") -> ir.Value:
        """An input with symbolic dimensions; index arrays are int64 unless an op wants them otherwise."""
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(DATA_TYPES[dtype]))
        self._inputs.append(value)
        return value

    def output(self, name: str, value: ir.Value, dims: Sequence[int | str], dtype: str = "fp32") -> None:
        """An output of `dtype`; an Identity node carries its public name."""
        named = self.op("Identity", value)
        named.name, named.shape, named.type = name, ir.Shape(dims), ir.TensorType(DATA_TYPES[dtype])
        self._outputs.append(named)

    def expose(self, name: str, value: ir.Value, dims: Sequence[int | str], dtype: str = "fp32") -> None:
        """`value` itself as an output, under this name: for many outputs, which would take as many nodes."""
        value.name, value.shape, value.type = name, ir.Shape(dims), ir.TensorType(DATA_TYPES[dtype])
        self._outputs.append(value)

    def _ordered_nodes(self) -> list[ir.Node]:
        """Nodes that read only weights come first.

        ORT orders by depth-first search and visits late nodes first: a Cast that stands late in the file runs early,
        and all casts together hold every weight in fp32; one that stands early runs just before it is needed.
        """
        known: set[int] = set()  # results of such nodes: a Cast may be followed by a Mul
        constant = []
        for node in self._nodes:
            if all(x is None or x.const_value is not None or id(x) in known for x in node.inputs):
                constant.append(node)
                known.update(id(x) for x in node.outputs)
        first = {id(node) for node in constant}
        return constant + [node for node in self._nodes if id(node) not in first]

    def model(self, name: str) -> ir.Model:
        """The finished model."""
        for rewrite in self.rewrites:
            self._nodes = rewrite(self._nodes)
        domains = self._domains | {node.domain: 1 for node in self._nodes if node.domain}
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._ordered_nodes(),
            initializers=list(self._initializers.values()),
            opset_imports=domains,
            name=name,
        )
        model = ir.Model(graph, ir_version=IR_VERSION, producer_name="rmexport")
        _drop_unused(model)
        if not self.node_names:
            for node in model.graph.all_nodes():
                node.name = None
        return model


def _drop_unused(model: ir.Model) -> None:
    """Remove nodes and inputs that nothing reads, as in a graph of some of the layers."""
    RemoveUnusedNodesPass()(model)
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
