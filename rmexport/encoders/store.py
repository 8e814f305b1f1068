"""Writes an encoder's weights into a bundle and returns the graph over them: trace, move weights, name the outputs."""

import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from rmexport.checkpoint import Checkpoint
from rmexport.encoders.spec import EncoderSpec
from rmexport.encoders.trace import trace
from rmexport.encoders.weight_file import move_weights
from rmexport.errors import UnsupportedModel
from rmexport.options import ExportOptions
from rmexport.weights import Progress, StoredWeights
from rmruntime.bundle.bundle import file_sha256
from rmruntime.bundle.graph_names import INPUT_IDS, PADDED_INPUTS
from rmruntime.bundle.manifest import FileRecord, Graph

DIALECT, COMPUTE_DTYPE = "traced", "fp32"
_CONTROL_FLOW = ("If", "Loop", "Scan")


@dataclass(frozen=True)
class StoredEncoder:
    """`model` is what `graph.file` must hold; `weights` are written already."""

    graph: Graph
    model: ir.Model
    weights: StoredWeights


def store_encoder(
    checkpoint: Checkpoint,
    spec: EncoderSpec,
    folder: Path,
    options: ExportOptions,
    progress: Progress | None = None,
) -> StoredEncoder:
    """Trace the encoder and write its weights into `folder`, which must exist and holds no weights yet.

    Raises UnsupportedModel where optimum-onnx is missing or cannot trace it, CheckpointError for weights that are
    missing or cannot be stored, and WriteError.
    """
    with tempfile.TemporaryDirectory(prefix=".traced-", dir=folder) as traced:
        model = ir.load(trace(checkpoint, len(spec.labels), Path(traced)))
        _check_traced(model.graph)
        locations, record = move_weights(model.graph, spec.dtype, folder, progress)
        _load_rest(model.graph, Path(traced))
    _complete_inputs(model.graph)
    _name_outputs(model.graph, spec)
    model.producer_name, model.producer_version, model.graph.name = "rmexport", None, DIALECT
    graph = Graph(
        file=f"{DIALECT}.{COMPUTE_DTYPE}.padded.onnx",
        dialect=DIALECT,
        compute_dtype=COMPUTE_DTYPE,
        layout="padded",
        pad_id=spec.pad_id,
    )
    weights = StoredWeights(locations, (record,), _sources(checkpoint, options))
    return StoredEncoder(graph, model, weights)


def _check_traced(graph: ir.Graph) -> None:
    """What is traced must take any lengths and run in every engine."""
    names = [value.name for value in graph.inputs]
    branches = Counter(node.op_type for node in graph if node.op_type in _CONTROL_FLOW)
    if not set(names) <= set(PADDED_INPUTS) or [value.name for value in graph.outputs] != ["logits"] or branches:
        raise UnsupportedModel(
            f"the traced graph has inputs {', '.join(map(str, names))}, outputs "
            f"{', '.join(str(value.name) for value in graph.outputs)} and control flow {dict(branches)}; expected "
            f"inputs among {', '.join(PADDED_INPUTS)}, the output logits and no control flow"
        )


def _load_rest(graph: ir.Graph, folder: Path) -> None:
    """Constants that the tracer put beside its file, as it does for models of more than 2 GB, go into the graph."""

    def inside(tensor: object) -> ir.TensorProtocol | None:
        if not isinstance(tensor, ir.ExternalTensor) or Path(tensor.base_dir) != folder:
            return None
        return ir.tensor(tensor.numpy().copy(), name=tensor.name)

    for value in graph.initializers.values():
        value.const_value = inside(value.const_value) or value.const_value
    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR and (tensor := inside(attribute.value)) is not None:
                node.attributes[name] = ir.AttrTensor(name, tensor)


def _complete_inputs(graph: ir.Graph) -> None:
    """Every padded graph has the three inputs; a model without token types does not read them."""
    given = {value.name: value for value in graph.inputs}
    rows = given[INPUT_IDS]
    for name in PADDED_INPUTS:
        if name not in given:
            given[name] = ir.Value(name=name, shape=rows.shape, type=rows.type)
    graph.inputs[:] = [given[name] for name in PADDED_INPUTS]


def _name_outputs(graph: ir.Graph, spec: EncoderSpec) -> None:
    """`logits` [B, labels] become score [B] and, of several labels, rewards [B, labels]."""
    [logits] = graph.outputs
    graph.outputs.clear()
    batch = graph.inputs[0].shape[0] if graph.inputs[0].shape is not None else None
    if spec.score_row is not None:
        row = ir.tensor(spec.score_row, dtype=ir.DataType.INT64, name="score_row")
        index = ir.Value(name="score_row", shape=ir.Shape([]), type=ir.TensorType(row.dtype), const_value=row)
        graph.register_initializer(index)
        _add_output(graph, "score", ir.node("Gather", [logits, index], {"axis": 1}), [batch])
    if len(spec.labels) > 1:
        _add_output(graph, "rewards", ir.node("Identity", [logits]), [batch, len(spec.labels)])


def _add_output(graph: ir.Graph, name: str, node: ir.Node, dims: list[ir.SymbolicDim | int | None]) -> None:
    value = node.outputs[0]
    value.name, value.shape, value.type = name, ir.Shape(dims), ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    graph.outputs.append(value)


def _sources(checkpoint: Checkpoint, options: ExportOptions) -> tuple[FileRecord, ...]:
    if not options.hash:
        return checkpoint.source_files
    return tuple(replace(f, sha256=f.sha256 or file_sha256(checkpoint.path(f.name))) for f in checkpoint.source_files)
