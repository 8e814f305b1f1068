"""What ONNX Runtime's CUDA kernels take, and what a graph asks of them.

Dtypes: docs/OperatorKernels.md of microsoft/onnxruntime, section CUDAExecutionProvider; PagedAttention and ScaledSiLU,
of which it says less than the 1.31 release has, from contrib_ops/cuda/bert/paged_attention.cc and scaled_silu.cc; those
of MatMulNBits from its schema, which asks for blocks that are powers of two from 16 and a multiple of them as K here.
Inputs that a kernel reads on the host are those that it registers with OrtMemTypeCPUInput.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import onnx
from onnx import TensorProto

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NARROW = {TensorProto.FLOAT, TensorProto.FLOAT16}
_INTS = {TensorProto.INT32, TensorProto.INT64}
_BOOL = {TensorProto.BOOL}
_ANY = _FLOATS | _INTS | _BOOL
_LONG = {TensorProto.INT64}
_SHORT = {TensorProto.INT32}
_CODES = {TensorProto.INT8, TensorProto.FLOAT8E4M3FN}
_BYTES = {TensorProto.UINT8}
_HALVES = {TensorProto.FLOAT16, TensorProto.BFLOAT16}

# Dtypes of the inputs, in order; the last of them stands for all that follow.
KERNELS: dict[str, Sequence[AbstractSet[int]]] = {
    **{op: [_FLOATS | _INTS] for op in ("Add", "Sub", "Mul", "Div", "Max", "Pow")},
    **{op: [_FLOATS] for op in ("Gemm", "MatMul", "RMSNormalization", "LayerNormalization", "Gelu", "Softmax")},
    **{op: [_FLOATS] for op in ("Tanh", "Sigmoid", "Relu", "Sqrt", "Neg", "RotaryEmbedding")},
    **{op: [_NARROW] for op in ("Cos", "Sin", "Floor", "Log", "Reciprocal", "ArgMin")},
    **{op: [_NARROW | _INTS] for op in ("Greater", "GreaterOrEqual", "LessOrEqual")},
    "Cast": [_ANY | _CODES],
    **{op: [_ANY] for op in ("Identity", "Transpose", "Concat", "Shape", "Size", "Scan")},
    **{op: [_ANY, _LONG] for op in ("Reshape", "Squeeze", "Unsqueeze", "Expand")},
    **{op: [_ANY, _INTS] for op in ("Gather", "GatherElements")},
    "Attention": [_FLOATS, _FLOATS, _FLOATS, _FLOATS | _BOOL],
    "And": [_BOOL],
    "Equal": [_NARROW | _INTS | _BOOL],
    "Where": [_BOOL, _FLOATS | _INTS],
    "CumSum": [_NARROW | _INTS, _INTS],
    "Range": [{TensorProto.FLOAT} | _INTS],
    "ReduceSum": [_FLOATS | _INTS, _LONG],
    "ScatterElements": [_ANY, _INTS, _ANY],
    "TopK": [_NARROW | _INTS, _LONG],
    "com.microsoft.MatMulNBits": [_FLOATS, _BYTES, _FLOATS, _BYTES, _SHORT, _FLOATS],
    "com.microsoft.ScaledSiLU": [_FLOATS],
    "com.microsoft.SkipLayerNormalization": [_FLOATS],
    "com.microsoft.SkipSimplifiedLayerNormalization": [_FLOATS],
    "com.microsoft.PagedAttention": [*[_HALVES] * 5, _SHORT],
}
# Ops whose inputs may differ in dtype; elsewhere all floating-point inputs must agree.
_MAY_DIFFER = {"Scan"}
HOST_INPUTS: dict[str, Sequence[int]] = {
    **{op: [1] for op in ("Reshape", "Squeeze", "Unsqueeze", "Expand", "ReduceSum", "TopK", "CumSum")},
    "Range": [0, 1, 2],
    "com.microsoft.PagedAttention": [16],
}
HOST_OUTPUTS = {"Shape", "Size"}


def kernel_name(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def unfit_nodes(model: onnx.ModelProto) -> list[str]:
    """What no CUDA kernel takes."""
    return [problem for node, dtypes in _typed(model.graph, {}) if (problem := _unfit(node, dtypes))]


def host_reads(model: onnx.ModelProto) -> set[str]:
    """Kernels that read on the host what another node computes, or that compute it there: each would make copies."""
    constant = {x.name for x in (*model.graph.initializer, *model.graph.input)}
    reads = set()
    for node in _nodes(model.graph):
        name = kernel_name(node)
        at = [i for i in HOST_INPUTS.get(name, ()) if i < len(node.input) and node.input[i]]
        if name in HOST_OUTPUTS or any(node.input[i] not in constant for i in at):
            reads.add(name)
    return reads


def _unfit(node: onnx.NodeProto, dtypes: list[int | None]) -> str | None:
    name = kernel_name(node)
    if name not in KERNELS:
        return f"{node.name}: no CUDA kernel is known here for {name}"
    allowed = KERNELS[name]
    for i, dtype in enumerate(dtypes):
        if dtype is not None and dtype not in allowed[min(i, len(allowed) - 1)]:
            return f"{node.name}: input {i} of {name} is {TensorProto.DataType.Name(dtype)}"
    floats = {dtype for dtype in dtypes if dtype in _FLOATS}
    return f"{node.name}: inputs of {name} differ in dtype" if len(floats) > 1 and name not in _MAY_DIFFER else None


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _typed(graph: onnx.GraphProto, known: dict[str, int]) -> Iterator[tuple[onnx.NodeProto, list[int | None]]]:
    """Every node with the dtypes of its inputs, None for those left out; `known` learns those of all values."""
    known |= {x.name: x.data_type for x in graph.initializer}
    known |= {x.name: x.type.tensor_type.elem_type for x in graph.input}
    for node in graph.node:
        dtypes = [known[name] if name else None for name in node.input]
        yield node, dtypes
        bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
        for body in bodies:
            yield from _typed(body, known)
            known |= {ours: known[own.name] for ours, own in zip(node.output, body.output, strict=True)}
        if not bodies:
            known |= dict(zip(node.output, _outputs(node, dtypes), strict=False))


def _outputs(node: onnx.NodeProto, dtypes: list[int | None]) -> list[int]:
    """Dtypes of the outputs: as the first input's, but for a few ops."""
    if node.op_type == "Cast":
        return [next(a.i for a in node.attribute if a.name == "to")]
    if node.op_type in ("Equal", "Greater", "GreaterOrEqual", "LessOrEqual"):
        return [TensorProto.BOOL]
    if node.op_type in ("Shape", "Size", "ArgMin"):
        return [TensorProto.INT64]
    first = dtypes[1] if node.op_type == "Where" else dtypes[0]
    assert first is not None
    return [first, TensorProto.INT64] if node.op_type == "TopK" else [first] * len(node.output)
