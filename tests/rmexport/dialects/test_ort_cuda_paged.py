"""Attention by pages, node by node in numpy: keys found through shared pages give the scores of the other engines."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxruntime
import pytest

from backbone_shapes import BACKBONES
from contrib_ops import CONTRIB_OPS
from family_checkpoints import family_checkpoint, store_as
from rmexport import ExportOptions, export
from rmexport.checkpoint import open_checkpoint
from rmexport.dialects import dialects
from rmexport.spec import build_graph, read_spec
from rmexport.weights import store_weights
from rmruntime.batching.packing import RowShape, pack, row_shape
from rmruntime.bundle import Bundle
from rmruntime.sequences import TokenSequence

PAGE = 16
PAGED: Any = dialects()["ort-cuda-paged"]


class SmallPages(PAGED):  # type: ignore[misc]
    """Pages that a few tokens fill."""

    PAGE_SIZE: ClassVar[int] = PAGE


def sequences() -> list[TokenSequence]:
    """A tree three levels deep, edges shorter and longer than a page, a repeat, a beginning of another, a stranger."""
    rng = np.random.default_rng(0)
    trunk, branch, twig = (rng.integers(3, 60, n) for n in (41, 23, 16))
    leaf = [rng.integers(3, 60, n) for n in (5, 37, 1, 16)]
    given = [
        [trunk, leaf[0]],
        [trunk, branch, leaf[1]],
        [trunk, branch, twig, leaf[2]],
        [trunk, branch, twig, leaf[1]],
        [trunk, branch, twig, leaf[3]],
        [trunk, branch, leaf[1]],
        [trunk[:20]],
        [leaf[0]],
    ]
    ids = [np.concatenate(parts).astype(np.int64) for parts in given]
    return [TokenSequence(ids=x, reads={"score": np.array([len(x) - 1])}) for x in ids]


def small_pages_scores(checkpoint: Path, folder: Path, given: list[TokenSequence]) -> np.ndarray:
    """Through the graph in fp32, which the CUDA kernel does not have, with pages that hold nothing before."""
    folder.mkdir()
    source = open_checkpoint(str(checkpoint), revision=None)
    spec = read_spec(source, ExportOptions())
    weights = store_weights(source, spec.weights, folder, ExportOptions())
    model = ir.to_proto(build_graph(SmallPages, "fp32", spec, weights.locations).model("paged"))
    (folder / "paged.onnx").write_bytes(model.SerializeToString())
    evaluator = onnx.reference.ReferenceEvaluator(onnx.load(folder / "paged.onnx"), new_ops=CONTRIB_OPS)
    feeds: dict[str, Any] = dict(pack(given, RowShape(128, 16, page_size=PAGE)).feeds)
    dims = next(i for i in model.graph.input if i.name == "key_pages").type.tensor_type.shape.dim
    pages = np.full((feeds["page_table"].max() + 1, *(d.dim_value for d in dims[1:])), np.nan, np.float32)
    found: Any = evaluator.run(["score"], feeds | {"key_pages": pages, "value_pages": pages})
    return np.asarray(found[0][: len(given)])


def row_scores(bundle: Path, given: list[TokenSequence]) -> np.ndarray:
    [graph] = [g for g in Bundle.open(bundle).manifest.graphs if g.dialect == "ort-cpu"]
    session = onnxruntime.InferenceSession(str(bundle / graph.file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["score"], dict(pack(given, row_shape(graph)).feeds))[0][: len(given)])


@pytest.mark.parametrize(
    "backbone", ["llama", "llama_odd_heads", "gemma2", "mistral", "qwen3", "gpt_neox", "qwen3_moe"]
)
def test_pages_give_the_scores_of_rows(tmp_path: Path, backbone: str) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", *BACKBONES[backbone]).folder
    export(str(checkpoint), tmp_path / "b")
    for given in (sequences(), sequences()[-1:]):
        expected = row_scores(tmp_path / "b", given)
        found = small_pages_scores(checkpoint, tmp_path / f"p{len(given)}", given)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_manifest_says_how_keys_are_found(tmp_path: Path) -> None:
    checkpoint = family_checkpoint(tmp_path / "c", *BACKBONES["llama"]).folder
    store_as(checkpoint, "bf16")
    export(str(checkpoint), tmp_path / "b")
    [graph] = [g for g in Bundle.open(tmp_path / "b").manifest.graphs if g.dialect == "ort-cuda-paged"]
    assert (graph.attention, graph.page_size, graph.compute_dtype) == ("pages", 256, "bf16")
    inputs = set(pack(sequences(), row_shape(graph)).feeds) | {"key_pages", "value_pages"}
    model = onnx.load(tmp_path / "b" / graph.file, load_external_data=False)
    assert {i.name for i in model.graph.input} == inputs


def test_pages_are_as_small_as_the_kernel_takes_them(tmp_path: Path) -> None:
    """A prompt that ends within a page is fed again from the page's beginning."""
    assert [PAGED.page_size(n) for n in (20, 64, 72, 128, 136, 256)] == [256, 256, 128, 128, 64, 64]
    checkpoint = family_checkpoint(tmp_path / "c", "qwen3", BACKBONES["qwen3"][1] | {"head_dim": 128}).folder
    store_as(checkpoint, "bf16")
    export(str(checkpoint), tmp_path / "b")
    [graph] = [g for g in Bundle.open(tmp_path / "b").manifest.graphs if g.dialect == "ort-cuda-paged"]
    model = onnx.load(tmp_path / "b" / graph.file, load_external_data=False)
    pages = [i.type.tensor_type.shape.dim[1].dim_value for i in model.graph.input if i.name.endswith("_pages")]
    assert graph.page_size == 128 and pages == [128, 128]


def test_fp32_bundles_have_no_such_graph(tmp_path: Path) -> None:
    """The op is for 16 bits only."""
    export(str(family_checkpoint(tmp_path / "c", *BACKBONES["llama"]).folder), tmp_path / "b")
    assert "ort-cuda-paged" not in {g.dialect for g in Bundle.open(tmp_path / "b").manifest.graphs}


def test_padding_counts_what_is_fed_again() -> None:
    given = sequences()
    inputs = pack(given, replace(RowShape(128, 16), page_size=PAGE))
    assert inputs.padded == inputs.feeds["page_tokens"].size - inputs.computed > 0
