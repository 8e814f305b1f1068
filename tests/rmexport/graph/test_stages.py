"""Stages: which layers and bytes each has, what its graph is called and reads, and what cannot be cut."""

from pathlib import Path

import onnx
import pytest

from rmexport import ExportOptions, export
from rmexport.errors import OptionError
from rmexport.graph.stages import stage_spans, weight_ranges
from rmexport.weights.weight_spec import WeightLocation
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_names import HIDDEN_IN, HIDDEN_OUT
from rmruntime.bundle.manifest import WeightRange
from rmruntime.errors import BundleError
from tiny_checkpoints import TinyShape, gated


def layers(options: ExportOptions, count: int) -> list[list[int]]:
    return [list(span.of(count)) for span in stage_spans(options, count)]


def test_equal_stages_leave_odd_layers_to_the_last() -> None:
    assert layers(ExportOptions(stages=3), 8) == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert layers(ExportOptions(stages=8), 8) == [[i] for i in range(8)]
    assert layers(ExportOptions(), 8) == []
    assert [len(part) for part in layers(ExportOptions(stages=2), 80)] == [40, 40]


def test_named_stages() -> None:
    assert layers(ExportOptions(stage_layers="0-2, 3,4-7"), 8) == [[0, 1, 2], [3], [4, 5, 6, 7]]
    assert layers(ExportOptions(stage_layers="0-7"), 8) == [list(range(8))]


@pytest.mark.parametrize("text", ["0-3,5-7", "0-3,4-6", "1-7", "0-3,4-8", "0-3,4-2", "", "all", "0-3;4-7"])
def test_ranges_that_do_not_make_up_the_layers(text: str) -> None:
    with pytest.raises(OptionError, match=r"make up layers 0 to 7, such as '0-3,4-7'"):
        stage_spans(ExportOptions(stage_layers=text), 8)


def test_numbers_of_stages_that_cannot_be() -> None:
    with pytest.raises(OptionError, match="the backbone has 8 layers: expected at most 8"):
        stage_spans(ExportOptions(stages=9), 8)
    with pytest.raises(OptionError, match="expected at least 1"):
        ExportOptions(stages=0)
    with pytest.raises(OptionError, match="leave one out"):
        ExportOptions(stages=2, stage_layers="0-3,4-7")


def test_neighbouring_weights_are_one_range() -> None:
    far = 100 << 20
    at = (("x", 128), ("x", 64), ("x", far), ("w", 0))
    assert weight_ranges(WeightLocation(file, offset, 64, "bf16", (32,)) for file, offset in at) == (
        WeightRange(file="w", offset=0, nbytes=64),
        WeightRange(file="x", offset=64, nbytes=128),
        WeightRange(file="x", offset=far, nbytes=64),
    )


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages")
    export(str(gated(folder / "c", TinyShape(num_hidden_layers=5)).folder), folder / "b", ExportOptions(stages=3))
    return folder / "b"


def test_each_graph_has_its_stages(staged: Path) -> None:
    manifest = Bundle.open(staged, check="full").manifest
    for graph in manifest.graphs:
        prefix = f"{graph.dialect}.fp32.packed.layers-"
        names = [f"{prefix}000-000.onnx", f"{prefix}001-002.onnx", f"{prefix}003-004.onnx"]
        assert [stage.file for stage in graph.stages] == names
        assert [(stage.first, stage.last) for stage in graph.stages] == [(0, 0), (1, 2), (3, 4)]
        models = [onnx.load(staged / name, load_external_data=False) for name in names]
        inputs, outputs = ([{v.name for v in getattr(m.graph, kind)} for m in models] for kind in ("input", "output"))
        assert [HIDDEN_IN in names for names in inputs] == [False, True, True]
        assert [HIDDEN_OUT in names for names in outputs] == [True, True, False]
        assert outputs[-1] == {output.name for output in manifest.outputs}
        assert ["read_index" in names for names in inputs] == [False, False, True]
        own = [{i.name for i in model.graph.initializer if i.external_data} for model in models]
        assert not own[0] & own[1] and not own[1] & own[2]
        whole = onnx.load(staged / graph.file, load_external_data=False)
        assert set.union(*own) == {i.name for i in whole.graph.initializer if i.external_data}
        total = sum(manifest.weight_bytes(graph.of_stage(stage)) for stage in graph.stages)
        assert total == 4 * manifest.backbone.parameters and manifest.weight_share(graph) == 1.0


def test_a_stage_that_is_missing_is_damage(staged: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in staged.iterdir():
        (copy / file.name).hardlink_to(file)
    gone = Bundle.open(copy).manifest.graphs[0].stages[1].file
    (copy / gone).unlink()
    with pytest.raises(BundleError, match=f"{gone} is missing"):
        Bundle.open(copy)
