"""Rewrites nodes of a graph that TensorRT's parser refuses into equivalent ones; in memory only, with the same results.

Tried with tensorrt_rtx 1.7.1, which has the same parser as TensorRT.
"""

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from rmruntime.bundle.manifest import Graph


@dataclass(frozen=True)
class ParserModel:
    """The rewritten model; `weights` bytes of it are in other files, whose names are relative to `path`'s folder."""

    model: ir.Model
    path: Path
    weights: int

    @property
    def proto(self) -> bytes:
        """The ONNX file's bytes, without weights."""
        proto: bytes = ir.to_proto(self.model).SerializeToString()
        return proto


def parser_model(path: Path, graph: Graph) -> ParserModel:
    """The graph in the file `path`, rewritten for the parser."""
    model = ir.load(path)
    for node in list(model.graph):
        if node.op_type == "Attention" and graph.compute_dtype == "fp32":
            _allow_decomposition(node)
        elif node.op_type == "Scan":
            _give_state(model.graph, node)
        elif node.op_type == "ArgMin":
            _add_axis(model.graph, node)
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return ParserModel(model, path, sum(t.nbytes for t in tensors if isinstance(t, ir.ExternalTensor)))


def _allow_decomposition(node: ir.Node) -> None:
    """Let TensorRT split fp32 attention into several kernels: it has no fused ones, and the build would fail."""
    node.attributes["TRT_decomposable"] = ir.AttrInt64("TRT_decomposable", 1)


def _give_state(graph: ir.Graph, node: ir.Node) -> None:
    """Add a state that nothing uses to a Scan without one, which the parser refuses."""
    if len(node.inputs) != node.attributes["num_scan_inputs"].as_int():
        return
    body = node.attributes["body"].as_graph()
    kind, shape = ir.TensorType(ir.DataType.INT64), ir.Shape([1])
    before = ir.Value(name=f"{node.name}_state_before", type=kind, shape=shape)
    keep = ir.node("Identity", [before], name=f"{node.name}_state")
    keep.outputs[0].name, keep.outputs[0].type, keep.outputs[0].shape = f"{node.name}_state_after", kind, shape
    body.inputs.insert(0, before)
    body.append(keep)
    body.outputs.insert(0, keep.outputs[0])
    given = _constant(graph, "scan_state", [0])
    results = [ir.Value(name=v.name, type=v.type, shape=v.shape) for v in node.outputs]
    scan = ir.Node(
        "", "Scan", [given, *node.inputs], list(node.attributes.values()), name=node.name,
        outputs=[ir.Value(name=f"{node.name}_last_state"), *results],
    )  # fmt: skip
    _replace(graph, node, [scan], results)


def _add_axis(graph: ir.Graph, node: ir.Node) -> None:
    """Add a last axis of size 1 to the input of ArgMin, which may not be a vector, and remove it from the result."""
    axis, keep = node.attributes["axis"].as_int(), node.attributes["keepdims"].as_int()
    last = _constant(graph, "last_axis", [-1])
    wider = ir.node("Unsqueeze", [node.inputs[0], last], name=f"{node.name}_column")
    wider.outputs[0].name = f"{node.name}_column"
    least = ir.node("ArgMin", wider.outputs, {"axis": axis if axis >= 0 else axis - 1, "keepdims": keep})
    least.name, least.outputs[0].name = f"{node.name}_least", f"{node.name}_least"
    result = ir.node("Squeeze", [least.outputs[0], last], name=node.name)
    result.outputs[0].name = node.outputs[0].name
    _replace(graph, node, [wider, least, result], list(result.outputs))


def _replace(graph: ir.Graph, old: ir.Node, nodes: list[ir.Node], results: list[ir.Value]) -> None:
    ir.convenience.replace_nodes_and_values(graph, old, [old], nodes, list(old.outputs), results)


def _constant(graph: ir.Graph, name: str, values: list[int]) -> ir.Value:
    """The initializer `name`, a vector of integers; added to the graph where it is not there yet."""
    if name not in graph.initializers:
        tensor = ir.tensor(values, dtype=ir.DataType.INT64, name=name)
        graph.register_initializer(
            ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([len(values)]), const_value=tensor)
        )
    return graph.initializers[name]
