"""The commonest head: the one value that a linear layer, or several in a row, makes of the token that is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from rmexport.graph.feed_forward import FeedForward
from rmexport.graph.head_writer import HeadWriter
from rmexport.heads import Head


@dataclass(frozen=True, kw_only=True)
class LinearHead(Head):
    """`value` ends in one output, which is the score as it is."""

    value: FeedForward

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], raw."""
        h.w.output("score", self.value.build_value(h, hidden), ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The layers in a row, on torch tensors; the dtype is the caller's."""
        return {"score": self.value.reference(hidden["score"], weights)[:, 0]}
