"""Graphs for ONNX Runtime on GPUs, in fp32 on its CPU provider, whose kernels have the same definitions."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from backbone_shapes import ALIKE, BACKBONES
from conversations import ragged_records
from family_checkpoints import TOLERANCE, expected_scores, family_checkpoint
from rmexport import export
from rmexport.dialects._fuse_skip_norm import fuse_skip_norms
from rmexport.graph.writer import GraphWriter
from rmruntime import ScoreOptions
from rmruntime.batching.batch_plan import plan_batches
from rmruntime.batching.packing import pack, row_shape
from rmruntime.bundle import Bundle
from rmruntime.records import parse_record
from rmruntime.text.request_tokenizer import RequestTokenizer

COUNT = 12


def scores(bundle: Path) -> np.ndarray:
    """Of ragged conversations through the `ort-cuda` graph."""
    opened = Bundle.open(bundle)
    [graph] = [g for g in opened.manifest.graphs if g.dialect == "ort-cuda"]
    assert (graph.attention, graph.compute_dtype) == ("rows", "fp32")
    encoder = RequestTokenizer(opened.manifest, bundle)
    sequences = [encoder.encode(parse_record(r), ScoreOptions())[0] for r in ragged_records(COUNT)]
    session = onnxruntime.InferenceSession(str(bundle / graph.file), providers=["CPUExecutionProvider"])
    found = np.empty(COUNT)
    for batch in plan_batches([s.ids for s in sequences], 4096, opened.manifest.backbone.rope_class):
        [one] = session.run(["score"], dict(pack([sequences[i] for i in batch], row_shape(graph)).feeds))
        found[batch] = one[: len(batch)]
    return found


@pytest.mark.parametrize(
    "backbone", [pytest.param(n, marks=pytest.mark.ladder) if n in ALIKE else n for n in BACKBONES]
)
def test_matches_transformers(tmp_path: Path, backbone: str) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", *BACKBONES[backbone])
    export(str(checkpoint.folder), tmp_path / "b")
    np.testing.assert_allclose(
        scores(tmp_path / "b"), expected_scores(checkpoint, ragged_records(COUNT)), atol=TOLERANCE
    )


@pytest.mark.parametrize(
    ("backbone", "op", "left"),
    [
        ("llama", "SkipSimplifiedLayerNormalization", 0),
        ("gemma2", "SkipSimplifiedLayerNormalization", 0),
        ("gpt_neox", "SkipLayerNormalization", 3),  # attention's sum of a layer is added to before any norm
        ("gpt_neox_sequential", "SkipLayerNormalization", 0),
    ],
)
def test_residual_sums_are_joined_with_the_norms_that_read_them(
    tmp_path: Path, backbone: str, op: str, left: int
) -> None:
    """Two sums a layer, one norm each; the first norm reads the embeddings."""
    export(str(family_checkpoint(tmp_path / "c", *BACKBONES[backbone]).folder), tmp_path / "b")
    nodes = onnx.load(tmp_path / "b" / "ort-cuda.fp32.packed.onnx", load_external_data=False).graph.node
    joined = [node for node in nodes if node.op_type == op]
    assert len(joined) == 2 * 3 - left
    written = {name for node in nodes for name in node.output}
    sums = [node.output[3] for node in joined if len(node.output) == 4]
    assert sums and all(name in written for name in sums)
    assert len(joined[-1].output) == 1  # nobody reads the last layer's sum but its norm


@pytest.mark.parametrize(
    ("first", "left"),
    [("norm", ["SkipSimplifiedLayerNormalization", "Relu"]), ("relu", ["Add", "Relu", "RMSNormalization"])],
)
def test_a_sum_that_is_read_before_its_norm_stays(first: str, left: list[str]) -> None:
    """A joined node stands where the norm stood, too late for an earlier reader."""
    w = GraphWriter({})
    x, y = (w.input(name, ["T", 4], "fp32") for name in "xy")
    total, scale = w.op("Add", x, y), w.constant("scale", [1, 2, 3, 4], "fp32")
    w.rewrites.append(partial(fuse_skip_norms, sums=[total]))
    read = {
        "norm": lambda: w.output("normed", w.op("RMSNormalization", total, scale, axis=-1, epsilon=1e-3), ["T", 4]),
        "relu": lambda: w.output("positive", w.op("Relu", total), ["T", 4]),
    }
    for name in sorted(read, key=lambda name: name != first):
        read[name]()
    model = ir.to_proto(w.model("sums"))
    assert [node.op_type for node in model.graph.node if node.op_type != "Identity"] == left
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"x": np.arange(8, dtype=np.float32).reshape(2, 4), "y": np.full((2, 4), -3, np.float32)}
    normed, positive = session.run(["normed", "positive"], given)
    sums = given["x"] + given["y"]
    spread = np.sqrt((sums**2).mean(axis=-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(normed, sums / spread * [1, 2, 3, 4], rtol=1e-5)
    np.testing.assert_array_equal(positive, np.maximum(sums, 0))
