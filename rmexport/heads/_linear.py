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
    """A head of linear layers, `value`, whose single output is the score, or with `sigmoid` its log-odds."""

    value: FeedForward
    sigmoid: bool = False

    def build(self, h: HeadWriter, hidden: ir.Value) -> None:
        """score [P], raw."""
        value = self.value.build_value(h, hidden)
        if self.sigmoid:
            h.w.output("score", h.w.op("Sigmoid", value), ["P"])
        h.w.output("logit" if self.sigmoid else "score", value, ["P"])

    def reference(self, hidden: Mapping[str, Any], weights: Mapping[str, Any]) -> dict[str, Any]:
        """The layers in sequence, on torch tensors; the dtype is the caller's."""
        value = self.value.reference(hidden["score"], weights)[:, 0]
        return {"score": value.sigmoid(), "logit": value} if self.sigmoid else {"score": value}
