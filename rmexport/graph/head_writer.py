"""What heads are made of. Everything is fp32, whatever the engine and the dtype of the decoder."""

import numpy as np
import onnx_ir as ir

from rmexport.graph.writer import GraphWriter
from rmruntime.bundle.graph_names import RESULTS, role_index


class HeadWriter:
    """Adds a head's nodes to the graph of `w`, the GraphWriter, which takes plain operators and the outputs.

    A head has a result for each of P positions. Several roles may be read for one result, such as the token that is
    scored and the one that a gate reads; the hidden states are those of all N scored tokens, each once.

    >>> h = HeadWriter(GraphWriter(None))
    >>> read = h.read(h.w.input("hidden", ["N", 64], "fp32"), "score")
    >>> h.w.output("rewards", h.linear(read, "score", (3, 64)), ["P", 3])
    >>> list(h.w.requests)
    ['score.weight']
    """

    def __init__(self, writer: GraphWriter) -> None:
        self.w = writer

    def read(self, hidden: ir.Value, role: str) -> ir.Value:
        """[P, hidden_size]: what this role reads of `hidden` [N, hidden_size], by a graph input of its own."""
        return self.w.op("Gather", hidden, self.w.input(role_index(role), [RESULTS]))

    def weight(self, name: str, shape: tuple[int, ...]) -> ir.Value:
        """A weight in fp32, whatever its stored dtype."""
        return self.w.fp32_weight(name, shape)

    def linear(self, x: ir.Value, name: str, features: tuple[int, int], *, bias: bool = False) -> ir.Value:
        """`x @ weight.T + bias`, with `name.weight` of shape `features` = (out, in) as HF stores it."""
        return self.w.fp32_linear(x, name, features, bias=bias)

    def row_sum(self, x: ir.Value, columns: int) -> ir.Value:
        """Sums of the rows of `[P, columns]`. As a product with ones: ReduceSum's order may depend on P."""
        ones = self.w.constant(f"ones_{columns}", np.ones((1, columns), np.float32), "fp32")
        return self.w.op("Squeeze", self.w.op("Gemm", x, ones, transB=1), self.w.constant("axes_1", [1]))
