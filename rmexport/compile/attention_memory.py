"""Bounds the keys in the attention rows of one pass by the memory that they take on the GPU."""

from collections.abc import Mapping

import onnx_ir as ir

from rmexport.compile.device import TargetDevice
from rmexport.errors import ExportError
from rmruntime.bundle.graph_names import READ_ROWS, row_names
from rmruntime.bundle.manifest import Graph

MOST_ELEMENTS = (1 << 31) - 1  # TensorRT's limit of one tensor
MOST_BYTES = 8 << 30  # for the keys, values and scores of one layer's attention
MEMORY_SHARE = 8  # and at most 1 / MEMORY_SHARE of the GPU's memory
ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
HEAD_SIZE = 64  # of BERT and its relatives


def packed_key_slots(graph: Graph, model: ir.Model, shapes: Mapping[str, tuple[int, ...]], device: TargetDevice) -> int:
    """The most keys that all attention rows of one pass of a packed graph may have together.

    Each key and its value take [key width] elements; where attention scores are tensors of the graph, there are
    query_block of them per head, twice. `shapes` are the shapes of the values that the graph computes.
    """
    width, heads = _key_width(model.graph, shapes), _written_heads(model.graph, shapes, graph)
    scores = heads * graph.query_block
    per_slot = 2 * (width + scores) * ITEM_BYTES[graph.compute_dtype]
    return min(MOST_ELEMENTS // max(width, scores, graph.query_block), _bytes(device) // per_slot)


def padded_key_slots(graph: Graph, hidden_size: int, device: TargetDevice) -> int:
    """The most pairs of a query and a key that all sequences of one pass of a padded graph may have together.

    >>> graph = Graph(file="model.onnx", dialect="traced", compute_dtype="fp32", layout="padded")
    >>> padded_key_slots(graph, hidden_size=768, device=TargetDevice(gpu="any", compute_capability="8.9", memory=None))
    89478485
    """
    heads = max(1, hidden_size // HEAD_SIZE)
    return min(MOST_ELEMENTS // heads, _bytes(device) // (2 * heads * ITEM_BYTES[graph.compute_dtype]))


def _bytes(device: TargetDevice) -> int:
    return MOST_BYTES if device.memory is None else min(MOST_BYTES, device.memory // MEMORY_SHARE)


def _key_width(graph: ir.Graph, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The number of elements in a token's keys: the width of the tensors that key indices gather from."""
    indices = {row_names().key_index, READ_ROWS.key_index}
    widths = [
        shapes[str(node.outputs[0].name)][-1]
        for node in graph
        if node.op_type == "Gather" and node.inputs[1] is not None and node.inputs[1].name in indices
    ]
    if not widths or min(widths) < 1:
        raise ExportError(f"the graph {graph.name} gathers no keys of a known width; export the bundle again")
    return max(widths)


def _written_heads(graph: ir.Graph, shapes: Mapping[str, tuple[int, ...]], form: Graph) -> int:
    """The most heads of a layer whose attention scores are tensors, because attention is not one fused kernel.

    That is where the graph has a Softmax of its own, and for Attention in fp32.
    """
    heads = [0]
    for node in graph:
        if node.op_type == "Attention" and form.compute_dtype == "fp32":
            heads.append(node.attributes["q_num_heads"].as_int())
        shape = shapes.get(str(node.outputs[0].name), ())
        if node.op_type == "Softmax" and len(shape) == 5:  # [R, KV, group, Sq, Sk]
            heads.append(shape[1] * shape[2])
    return max(heads)
