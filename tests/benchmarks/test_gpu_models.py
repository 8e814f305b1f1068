"""The checkpoints of bench_gpu.py have the published tensors, and are models that transformers and we score alike."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu.make_checkpoint import trunk_shapes, write_checkpoints
from gpu.models import warm_page_cache
from gpu.plan import FULL, SMOKE, Shape
from gpu.workloads import parity_records, workloads
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

from published_backbones import backbone
from rmexport import ExportOptions, export
from rmexport.bench.gemm_peak import matmul_parameters
from rmruntime import RewardModel
from rmruntime.bundle import Bundle


@pytest.mark.parametrize("shape", [FULL.big, FULL.small, SMOKE.big, SMOKE.small], ids=lambda s: s.name)
def test_the_tensors_are_the_published_ones(shape: Shape) -> None:
    assert dict(trunk_shapes(shape.config)) == dict(backbone(dict(shape.config)))


def test_flops_of_the_big_shape() -> None:
    """13.96 GFLOP a token, as the ceiling is usually stated for Llama-3-8B."""
    assert FULL.big.flops_per_token / 1e9 == pytest.approx(13.96, abs=0.005)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    work = tmp_path_factory.mktemp("models")
    return {folder.name: folder for shape in SMOKE.shapes for folder in write_checkpoints(work, shape, "cpu")}


def test_both_heads_share_one_trunk(folders: dict[str, Path]) -> None:
    assert set(folders) == {"0.6b-classifier", "8b-classifier", "8b-armorm"}
    trunks = [sorted(folders[f"8b-{head}"].glob("model-trunk-*")) for head in ("classifier", "armorm")]
    assert trunks[0] and [p.stat().st_ino for p in trunks[0]] == [p.stat().st_ino for p in trunks[1]]


def test_what_an_ended_run_left_is_written_again(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "8b-classifier").mkdir()
    (tmp_path / "8b-classifier" / "model-trunk-00000.safetensors").write_bytes(b"half")
    assert [folder.name for folder in write_checkpoints(tmp_path, SMOKE.big, "cpu")] == ["8b-classifier", "8b-armorm"]
    sizes = [folder / "model-trunk-00000.safetensors" for folder in (tmp_path / "8b-classifier", folders["8b-armorm"])]
    assert sizes[0].stat().st_size == sizes[1].stat().st_size


def test_shards_hold_what_the_index_says(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when there are several; and weights depend on the seed alone."""
    monkeypatch.setattr("gpu.make_checkpoint.SHARD_BYTES", 100_000)
    [folder, _] = write_checkpoints(tmp_path, SMOKE.big, "cpu")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 3
    for name, file in index.items():
        with safe_open(folder / file, "pt") as shard, safe_open(_file(folders["8b-classifier"], name), "pt") as other:
            assert torch.equal(shard.get_tensor(name), other.get_tensor(name))


def _file(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]


@pytest.mark.parametrize("name", ["0.6b-classifier", "8b-classifier"])
def test_classifiers_score_as_in_transformers(tmp_path: Path, folders: dict[str, Path], name: str) -> None:
    export(str(folders[name]), tmp_path / "b", ExportOptions(weights="link"))
    shape = SMOKE.small if name.startswith("0.6b") else SMOKE.big
    assert matmul_parameters(Bundle.open(tmp_path / "b")) == shape.matmul_parameters
    sequences = [ids for request in workloads(SMOKE, ("throughput",))[0].requests for ids in request]
    model = AutoModelForSequenceClassification.from_pretrained(folders[name], dtype=torch.float32).eval()
    with torch.no_grad():
        expected = [model(torch.tensor([ids])).logits.item() for ids in sequences]
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as scorer:
        found = [score.value for score in scorer.score([{"input_ids": ids} for ids in sequences])]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.std(expected) > 0.05  # scores that differ: a comparison of equal ones would say nothing


def test_the_gated_model_scores_its_parity_records(tmp_path: Path, folders: dict[str, Path]) -> None:
    manifest = export(str(folders["8b-armorm"]), tmp_path / "b", ExportOptions(weights="link"))
    records = parity_records(replace(SMOKE, conversations=17), manifest.positions["gate"].tokens)
    assert len(records) == 17
    with RewardModel.load(tmp_path / "b", device="ort-cpu") as scorer:
        scores = [score.value for score in scorer.score(records)]
    assert np.isfinite(scores).all() and len(set(scores)) == 17


def test_warming_reads_every_byte(folders: dict[str, Path]) -> None:
    folder = folders["0.6b-classifier"]
    assert warm_page_cache(folder) == sum(path.stat().st_size for path in folder.iterdir())


def test_workloads_are_what_the_plan_says() -> None:
    single, ragged, best_of = workloads(FULL, ("latency", "throughput"))
    assert {len(ids) for request in single.requests for ids in request} == {512}
    lengths = [len(ids) for request in ragged.requests for ids in request]
    assert len(lengths) == 96 and min(lengths) >= 64 and max(lengths) <= 2048 and ragged.tokens == sum(lengths)
    for request in best_of.requests:
        assert len(request) == 16 and len({tuple(ids[:1024]) for ids in request}) == 1
        assert len({tuple(ids) for ids in request}) == 16
    assert workloads(FULL, ("latency",)) == [single] and workloads(FULL, ("latency", "throughput"))[1] == ragged
