"""Moves the weights of a traced graph into one safetensors file, in the bundle's dtype; the graph refers to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from rmexport.checkpoint.tensors import NUMPY_DTYPES, Array
from rmexport.errors import CheckpointError
from rmexport.graph.writer import DATA_TYPES
from rmexport.weights import Progress
from rmexport.weights.hashed_file import HashedFile
from rmexport.weights.safetensors_layout import lay_out
from rmexport.weights.stream import convert
from rmexport.weights.weight_spec import WeightLocation
from rmruntime.bundle.manifest import FileRecord

WEIGHTS = "model.safetensors"
_CHUNK = 1 << 20  # elements converted at a time
# A matrix with fewer rows or columns is a classifier or a table of types: nothing to gain, and close to the score.
_NARROW = 16


@dataclass(frozen=True)
class _Weight:
    """A traced weight, its name in the file, and where it will lie."""

    value: ir.Value
    name: str
    at: WeightLocation


def move_weights(
    graph: ir.Graph, dtype: str, folder: Path, progress: Progress | None = None
) -> tuple[Mapping[str, WeightLocation], FileRecord]:
    """Write every floating-point initializer into `folder`'s WEIGHTS: matrices as `dtype`, small tensors as fp32.

    The initializers then lie in that file, and a Cast follows each that is not fp32: all arithmetic stays fp32.
    Raises CheckpointError for weights that `dtype` cannot hold, WriteError for a file that cannot be written.
    """
    weights, header = _plan(graph, dtype)
    faults = []
    total = sum(weight.at.nbytes for weight in weights)
    with HashedFile(folder / WEIGHTS, _CHUNK * 4) as file:
        file.write_bytes(header)
        for done, weight in _running_total(weights):
            if not _write(weight, file):
                faults.append(weight.name)
            if progress is not None:
                progress(done, total)
        sha256 = file.sha256()
    if faults:
        raise CheckpointError(
            f"{', '.join(faults)} hold values that are not finite or beyond the range of {dtype}; "
            "store them with a wider one (--dtype bf16 or fp32), or check the download"
        )
    for weight in weights:
        _refer(graph, weight)
    record = FileRecord(name=WEIGHTS, size=len(header) + total, role="weights", sha256=sha256)
    return {weight.name: weight.at for weight in weights}, record


def _plan(graph: ir.Graph, dtype: str) -> tuple[list[_Weight], bytes]:
    """Every weight's place, in the file's order, and the file's header."""
    traced = [value for value in graph.initializers.values() if _is_weight(value)]
    named = dict(zip(_names(traced), traced, strict=True))
    layout = lay_out(
        {name: (_weight_dtype(value, dtype), tuple(_tensor(value).shape.numpy())) for name, value in named.items()}
    )
    weights = [
        _Weight(named[name], name, WeightLocation(WEIGHTS, entry.begin, entry.nbytes, entry.dtype, entry.shape))
        for name, entry in layout.entries.items()
    ]
    return weights, layout.header


def _is_weight(value: ir.Value) -> bool:
    tensor = _tensor(value)
    return tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) > 0 and tensor.size > 0


def _names(values: Sequence[ir.Value]) -> Iterator[str]:
    """The parameter's name; a transposed matrix, which the tracer numbers, has that of the module that reads it."""
    taken: set[str] = set()
    for value in values:
        name = str(value.name)
        if name.startswith("onnx::"):
            paths = [str(use.node.name).strip("/").split("/")[:-1] for use in value.uses()]
            readable = [".".join([*path, "weight_transposed"]) for path in paths if path]
            name = next((other for other in readable if other not in taken), name)
        taken.add(name)
        yield name


def _weight_dtype(value: ir.Value, dtype: str) -> str:
    shape = _tensor(value).shape.numpy()
    return dtype if len(shape) == 2 and min(shape) >= _NARROW else "fp32"


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    assert value.const_value is not None  # initializers have one
    return value.const_value


def _running_total(weights: Sequence[_Weight]) -> Iterator[tuple[int, _Weight]]:
    done = 0
    for weight in weights:
        done += weight.at.nbytes
        yield done, weight


def _write(weight: _Weight, file: HashedFile) -> bool:
    """Append a weight to the file; False when it has values that cannot be stored."""
    source: Array = _tensor(weight.value).numpy().reshape(-1)
    good = True
    for start in range(0, source.size, _CHUNK):
        values = source[start : start + _CHUNK]
        converted = np.empty(values.size, NUMPY_DTYPES[weight.at.dtype])
        good &= convert(values, converted)
        file.write_bytes(converted.tobytes())
    return good


def _refer(graph: ir.Graph, weight: _Weight) -> None:
    """The initializer lies in the file from now on; what used it gets fp32 as before."""
    value, at = weight.value, weight.at
    data_type = DATA_TYPES[at.dtype]
    value.const_value = ir.ExternalTensor(
        at.file, at.offset, at.nbytes, data_type, shape=ir.Shape(at.shape), name=str(value.name)
    )
    value.type = ir.TensorType(data_type)
    if at.dtype == "fp32":
        return
    uses = list(value.uses())
    for node, place in uses:
        if node.op_type == "Gather" and place == 0:  # a table: only the rows that are used are widened
            _widen_result(graph, node, data_type)
    if others := [(node, place) for node, place in uses if node.op_type != "Gather" or place]:
        cast = _cast(value)
        # Before everything: ORT runs a Cast that stands early just before it is needed, a late one at once.
        graph.insert_before(graph[0], cast)
        for node, place in others:
            node.replace_input_with(place, cast.outputs[0])


def _widen_result(graph: ir.Graph, node: ir.Node, data_type: ir.DataType) -> None:
    rows = node.outputs[0]
    uses = list(rows.uses())
    rows.type = ir.TensorType(data_type)
    cast = _cast(rows)
    graph.insert_after(node, cast)
    for user, place in uses:
        user.replace_input_with(place, cast.outputs[0])


def _cast(value: ir.Value) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"widen {value.name}")
    cast.outputs[0].name, cast.outputs[0].shape = f"{value.name} in fp32", value.shape
    cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return cast
