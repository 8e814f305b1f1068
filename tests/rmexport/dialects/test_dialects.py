"""Every dialect computes the same scores: portable graphs run here through ORT in fp32, and node by node in bf16."""

from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch

from conversations import ragged_records
from rmexport import export
from rmexport.dialects import dialects
from rmruntime import RewardModel, ScoreOptions
from rmruntime.batching.packing import pack, row_shape
from rmruntime.bundle import Bundle
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer
from tiny_checkpoints import TinyShape, gated, sequence_classifier

STANDARD = {"", "com.microsoft"}
FP32 = [name for name, dialect in dialects().items() if dialect.compute_dtypes("fp32")]
NEVER = {"nonpad_kv_seqlen", "softmax_precision", "left_window_size", "softcap"}


def feeds(bundle: Path, count: int, dialect: str = "portable") -> dict[str, np.ndarray]:
    graph = next(g for g in Bundle.open(bundle).manifest.graphs if g.dialect == dialect)
    encoder = RequestTokenizer(Bundle.open(bundle).manifest, bundle)
    sequences = [encoder.encode(parse_record(r), ScoreOptions())[0] for r in ragged_records(count)]
    return dict(pack(sequences, row_shape(graph)).feeds)


def graph_file(bundle: Path, dialect: str) -> str:
    return next(str(bundle / g.file) for g in Bundle.open(bundle).manifest.graphs if g.dialect == dialect)


@pytest.mark.parametrize("dialect", FP32)
@pytest.mark.parametrize("shape", [TinyShape(), TinyShape(num_key_value_heads=1, extra={"attention_bias": True})])
def test_all_dialects_agree_in_fp32(tmp_path: Path, dialect: str, shape: TinyShape) -> None:
    export(str(gated(tmp_path / "c", shape).folder), tmp_path / "b")
    session = onnxruntime.InferenceSession(graph_file(tmp_path / "b", dialect), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, feeds(tmp_path / "b", 8, dialect)), strict=True))
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as model:
        scores = model.score(ragged_records(8))
    np.testing.assert_allclose(found["score"], [s.value for s in scores], atol=2e-6)  # type: ignore[union-attr]


def test_the_portable_graph_computes_in_the_bundles_dtype(tmp_path: Path) -> None:
    """bf16 arithmetic, run by ONNX's own reference implementation: as far from fp32 as bf16 is, and no farther."""
    shape = TinyShape(num_hidden_layers=2)
    export(str(sequence_classifier(tmp_path / "c", shape, dtype=torch.bfloat16).folder), tmp_path / "b")
    [graph] = [g for g in Bundle.open(tmp_path / "b").manifest.graphs if g.dialect == "portable"]
    assert (graph.compute_dtype, graph.file) == ("bf16", "portable.bf16.packed.onnx")
    model = onnx.load(tmp_path / "b" / graph.file)
    evaluator = onnx.reference.ReferenceEvaluator(model)
    found = evaluator.run(["score"], feeds(tmp_path / "b", 3))[0]
    with RewardModel.load(tmp_path / "b") as engine:
        expected = [s.value for s in engine.score(ragged_records(3))]  # type: ignore[union-attr]
    error = np.abs(np.asarray(found, np.float64) - np.array(expected, np.float64)).max()
    assert 0 < error < 0.05


@pytest.mark.parametrize("dialect", dialects())
def test_graphs_use_nothing_that_engines_get_wrong(tmp_path: Path, dialect: str) -> None:
    """In bf16, in which every dialect has a graph."""
    export(str(sequence_classifier(tmp_path / "c", dtype=torch.bfloat16).folder), tmp_path / "b")
    model = onnx.load(graph_file(tmp_path / "b", dialect), load_external_data=False)
    assert {o.domain for o in model.opset_import} <= STANDARD
    if dialect == "portable":
        assert {o.domain for o in model.opset_import} == {""}
        onnx.checker.check_model(str(graph_file(tmp_path / "b", dialect)))
    for node in model.graph.node:
        assert not NEVER & {attribute.name for attribute in node.attribute}
        if node.op_type == "Attention":
            assert len(node.input) == 4 and "is_causal" not in {a.name for a in node.attribute}
