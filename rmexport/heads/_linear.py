"""The most common head: one value, from a linear layer, or several in sequence, on the scored token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.graph.feed_forward import FeedForward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head


@dataclass(frozen=True, kw_only=True)
class LinearHead(Head):
    """A head of linear layers, `value`, whose single output is the score, without an activation."""

    value: FeedForward

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], raw."""
        h.w.output("score", self.value.build_value(h, hidden), ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The layers in sequence, on torch tensors; the dtype is the caller's."""
        return {"score": self.value.reference(hidden["score"], weights)[:, 0]}
