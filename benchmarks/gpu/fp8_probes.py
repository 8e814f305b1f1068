"""Products of fp8 (e4m3) weights and activations, against those in bf16; kind "fp8" of `gpu.operator_probes`.

ONNX Runtime's GemmFloat8 takes one scale per matrix. Scales per row of the activations and per channel of the weights
are thus applied to its results, which are fp16: for bf16 results it asks cuBLASLt for a compute type that is not listed
for fp8. The scale of a row is its root mean square, which one node returns with the scaled row: no value is more than
sqrt(columns) times that, so nothing saturates.
"""

from collections.abc import Iterator
from functools import partial

import torch

from gpu.operator_probes import Record, attempt, difference, random_matrix
from gpu.plan import Plan
from gpu.probe_graph import CONTRIB, ProbeGraph

FP8, LARGEST = torch.float8_e4m3fn, 448.0
FP16 = 10  # TensorProto.DataType of the results
SMALLER = 2.0**-14  # of results, which are sums of squares of LARGEST at worst, so that fp16 has them
EPSILON = 1e-6


def fp8(plan: Plan) -> Iterator[Record]:
    """The products of the big shape's layers; FLOP/s of the bf16 product alike."""
    c, rows = plan.big.config, plan.gemm_tokens
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    for inputs, outputs in ((hidden, hidden), (hidden, inner), (inner, hidden)):
        a, b = random_matrix(plan, rows, inputs), random_matrix(plan, outputs, inputs)
        for name, run in (("Gemm", _gemm), ("GemmFloat8 alone", _alone), ("GemmFloat8 with its scales", _scaled)):
            yield {"rows": rows, "in": inputs, "out": outputs, **attempt(name, partial(run, plan, a, b))}


def _gemm(plan: Plan, a: torch.Tensor, b: torch.Tensor) -> Record:
    graph = ProbeGraph(plan.engine_device)
    [y] = graph.ops("Gemm", [graph.input("x", a), graph.input("weight", b)], transB=1)
    return _timed(graph, graph.output(y, a.new_empty((len(a), len(b)))), a, b)


def _alone(plan: Plan, a: torch.Tensor, b: torch.Tensor) -> Record:
    """Of activations that are fp8 already, all with one scale, which is that of a unit root mean square."""
    graph = ProbeGraph(plan.engine_device)
    a, b = (x.float() / x.float().square().mean().sqrt() for x in (a, b))
    x, weight = graph.input("x", a.to(FP8)), graph.input("weight", b.to(FP8))
    [y] = graph.ops("GemmFloat8", [x, weight], domain=CONTRIB, transB=1, dtype=FP16)
    return _timed(graph, graph.output(y, a.new_empty((len(a), len(b)), dtype=torch.float16)), a, b)


def _scaled(plan: Plan, a: torch.Tensor, b: torch.Tensor) -> Record:
    """bf16 in and out, as a layer would have it."""
    graph = ProbeGraph(plan.engine_device)
    scales = b.float().abs().amax(dim=1, keepdim=True) / LARGEST
    unit = LARGEST / a.shape[1] ** 0.5
    x = graph.input("x", a)
    weight = graph.input("weight", (b.float() / scales).to(FP8))
    units = graph.input("units", a.new_full((a.shape[1],), unit))
    channels = graph.input("channels", (scales.T / (unit * SMALLER)).to(a.dtype).contiguous())
    rows, inverse = graph.ops("SimplifiedLayerNormalization", [x, units], outputs=2, axis=-1, epsilon=EPSILON)
    [rows] = graph.ops("Cast", [rows], to=FP16)  # there is no kernel from bf16 to fp8
    [codes] = graph.ops("Cast", [rows], to=int(graph.type_of(weight)))
    [y] = graph.ops("GemmFloat8", [codes, weight], domain=CONTRIB, transB=1, dtype=FP16, alpha=SMALLER)
    [y] = graph.ops("Cast", [y], to=int(graph.type_of(x)))
    [inverse] = graph.ops("Cast", [inverse], to=int(graph.type_of(x)))
    [y] = graph.ops("Div", [y, inverse])
    [y] = graph.ops("Mul", [y, channels])
    return _timed(graph, graph.output(y, a.new_empty((len(a), len(b)))), a, b)


def _timed(graph: ProbeGraph, result: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Record:
    seconds = graph.seconds()
    flops = 2.0 * a.shape[0] * a.shape[1] * b.shape[0] / seconds
    return {"seconds": seconds, "flops": flops, "max_abs": difference(result, a @ b.T)}
