"""The four seed checkpoints at their real size: config, tensor inventory, head, positions, graph; no weight is read."""

from pathlib import Path

import onnx
import pytest

from rmexport import ExportOptions, export
from rmexport.heads.gated_objectives import PUBLISHED_OBJECTIVES
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import Manifest
from sparse_checkpoints import SEEDS, disk_usage, free_of_sparse_files, write_seed

RECIPES = {"truth-rm": "mahalo", "orm": "rlhflow-orm", "tulu-70b": "rewardbench2"}


def exported(tmp_path: Path, name: str, recipe: str | None) -> Manifest:
    if free_of_sparse_files(tmp_path):
        pytest.skip("this file system has no sparse files")
    folder = write_seed(tmp_path / "checkpoint", name)
    manifest = export(str(folder), tmp_path / "bundle", ExportOptions(weights="link", recipe=recipe))
    assert disk_usage(tmp_path / "bundle") < 20_000_000
    assert Bundle.open(tmp_path / "bundle").manifest == manifest
    return manifest


@pytest.mark.parametrize("name", SEEDS)
def test_links_at_full_size(tmp_path: Path, name: str) -> None:
    manifest = exported(tmp_path, name, RECIPES.get(name))
    config = SEEDS[name].config
    assert manifest.dtype == "bf16"
    if name == "tulu-70b":
        assert manifest.backbone.parameters == pytest.approx(69.503e9, rel=1e-4)  # as published
    assert manifest.backbone.num_layers == config["num_hidden_layers"]
    assert manifest.backbone.max_length == config["max_position_embeddings"]
    [graph] = [g for g in manifest.graphs if g.dialect == "ort-cpu"]
    model = onnx.load(tmp_path / "bundle" / graph.file, load_external_data=False)
    assert sum(i.data_location == onnx.TensorProto.EXTERNAL for i in model.graph.initializer) >= 9 * 32 + 3
    for path in (tmp_path / "bundle").glob("*.onnx"):
        assert path.stat().st_size < 600_000


def test_armorm_is_found_by_its_tensors(tmp_path: Path) -> None:
    manifest = exported(tmp_path, "armorm", None)
    assert manifest.head == "gated_objectives"
    assert [o.name for o in manifest.outputs] == ["score", "rewards", "gating"]
    assert manifest.outputs[1].labels == PUBLISHED_OBJECTIVES
    assert manifest.positions["gate"].rule == "pattern_start"
    assert manifest.positions["score"].rule == "last"


def test_truth_rm_pads_with_its_own_token(tmp_path: Path) -> None:
    manifest = exported(tmp_path, "truth-rm", "mahalo")
    assert (manifest.positions["score"].rule, manifest.positions["score"].pad_id) == ("last_not_pad", 128256)
    assert (manifest.format.bos, manifest.format.step_joiner) == ("one", "")


def test_orm_keeps_two_rows_of_the_lm_head(tmp_path: Path) -> None:
    manifest = exported(tmp_path, "orm", "rlhflow-orm")
    assert manifest.positions["score"].rule == "before_marker"
    assert manifest.positions["score"].tokens[-1] == 10  # '+'
    assert [o.name for o in manifest.outputs] == ["score", "logit"]
    assert manifest.format.remove == (" ки",)


def test_tulu_without_pad_id_scores_the_last_token(tmp_path: Path) -> None:
    manifest = exported(tmp_path, "tulu-70b", None)
    assert manifest.positions["score"].rule == "last"
    assert any("pad_token_id" in note for note in manifest.notes)
