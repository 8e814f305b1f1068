"""The forms that TensorRT's parser wants compute the same scores, and are made where they are needed only."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from conversations import ragged_records
from family_checkpoints import family_checkpoint
from rmexport import ExportOptions, export
from rmexport.compile.tensorrt_rewrites import ParserModel, parser_model
from rmruntime import ScoreOptions
from rmruntime.batching.packing import pack, row_shape
from rmruntime.bundle import Bundle
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer
from tiny_checkpoints import TinyShape, sequence_classifier

MIXTRAL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


def portable(bundle: Path) -> tuple[ParserModel, dict[str, np.ndarray]]:
    """The portable graph as it is parsed, and the inputs of a pass."""
    opened = Bundle.open(bundle)
    graph = next(g for g in opened.manifest.graphs if g.dialect == "portable")
    encoder = RequestTokenizer(opened.manifest, bundle)
    sequences = [encoder.encode(parse_record(r), ScoreOptions())[0] for r in ragged_records(8)]
    return parser_model(bundle / graph.file, graph), dict(pack(sequences, row_shape(graph)).feeds)


def scores(path: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    [found] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["score"], feeds)
    return np.asarray(found)


def test_routed_experts_compute_the_same(tmp_path: Path) -> None:
    export(str(family_checkpoint(tmp_path / "c", "mixtral", MIXTRAL).folder), tmp_path / "b")
    model, feeds = portable(tmp_path / "b")
    scans = [node for node in model.model.graph if node.op_type == "Scan"]
    assert scans
    for scan in scans:
        assert len(scan.inputs) == scan.attributes["num_scan_inputs"].as_int() + 1  # and the state
    for node in model.model.graph:
        node.attributes.pop("TRT_decomposable", None)  # which ONNX Runtime does not know
    (tmp_path / "b" / "parsed.onnx").write_bytes(model.proto)
    onnx.checker.check_model(str(tmp_path / "b" / "parsed.onnx"))
    np.testing.assert_array_equal(scores(tmp_path / "b" / "parsed.onnx", feeds), scores(model.path, feeds))


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_arg_min_of_any_axis(tmp_path: Path, axis: int) -> None:
    """The rewritten node gives the same for matrices too."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([3, 4]))
    node = ir.node("ArgMin", [x], {"axis": axis, "keepdims": 0})
    node.outputs[0].name, node.outputs[0].type = "score", ir.TensorType(ir.DataType.INT64)
    model = ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 23}), ir_version=11)
    path = tmp_path / "argmin.onnx"
    ir.save(model, path)
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    expected = scores(path, {"x": values})
    export(str(sequence_classifier(tmp_path / "c").folder), tmp_path / "b")
    path.write_bytes(parser_model(path, Bundle.open(tmp_path / "b").manifest.graphs[0]).proto)
    np.testing.assert_array_equal(expected, values.argmin(axis=axis))
    np.testing.assert_array_equal(scores(path, {"x": values}), expected)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_attention_may_be_decomposed_in_fp32_only(tmp_path: Path, dtype: Any) -> None:
    checkpoint = sequence_classifier(tmp_path / "c", TinyShape(num_hidden_layers=2))
    export(str(checkpoint.folder), tmp_path / "b", ExportOptions(dtype=dtype))
    model, _ = portable(tmp_path / "b")
    marked = ["TRT_decomposable" in node.attributes for node in model.model.graph if node.op_type == "Attention"]
    assert marked == [dtype == "fp32"] * 2
    assert model.weights == sum(
        record.size for record in Bundle.open(tmp_path / "b").manifest.files if record.role == "weights"
    ) - header_bytes(tmp_path / "b")


def header_bytes(bundle: Path) -> int:
    """What the safetensors files hold beside tensors."""
    names = [record.name for record in Bundle.open(bundle).manifest.files if record.role == "weights"]
    return sum(8 + int.from_bytes((bundle / name).read_bytes()[:8], "little") for name in names)
