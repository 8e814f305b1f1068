"""Residual sums and the norms that read them as one node each: ONNX Runtime's Skip(Simplified)LayerNormalization."""

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from rmexport.graph.writer import CONTRIB

_FUSED = {
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
    "LayerNormalization": "SkipLayerNormalization",
}


def fuse_skip_norms(nodes: list[ir.Node], sums: Iterable[ir.Value]) -> list[ir.Node]:
    """The nodes with each of `sums`, outputs of an Add of two equal shapes, joined with the norm that reads it first.

    A sum that something else reads before its norm stays as it is. Values keep their names.
    """
    here = {id(node) for node in nodes}  # a subgraph's nodes are not: the order would not show when they read
    waiting = {id(value): value for value in sums if all(id(use.node) in here for use in value.uses())}
    joined: set[int] = set()
    result: list[ir.Node] = []
    for node in nodes:
        read = [waiting.pop(id(x)) for x in _distinct(node.inputs) if id(x) in waiting]
        if node.op_type in _FUSED and read and read[0] is node.inputs[0]:
            joined.add(id(read[0].producer()))
            node = _join(node, read[0])
        result.append(node)
    return [node for node in result if id(node) not in joined]


def _distinct(values: Iterable[ir.Value | None]) -> Iterator[ir.Value]:
    seen: set[int] = set()
    for value in values:
        if value is not None and id(value) not in seen:
            seen.add(id(value))
            yield value


def _join(norm: ir.Node, total: ir.Value) -> ir.Node:
    """One node in the norm's place, whose outputs stand for the norm's and the sum's."""
    add = total.producer()
    assert add is not None  # `sums` are outputs of Adds
    epsilon = {"epsilon": norm.attributes["epsilon"].as_float()}
    name = f"Skip{norm.name}"
    read_again = any(use.node is not norm for use in total.uses())
    inputs = (*add.inputs, *norm.inputs[1:])
    node = ir.node(_FUSED[norm.op_type], inputs, epsilon, domain=CONTRIB, num_outputs=4 if read_again else 1, name=name)
    for value in node.outputs:
        value.name = ""  # the mean and its like, which only training reads
    pairs = [(norm.outputs[0], node.outputs[0])] + ([(total, node.outputs[3])] if read_again else [])
    for old, new in pairs:
        new.name = old.name
        ir.convenience.replace_all_uses_with(old, new)
    return node
