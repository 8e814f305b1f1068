"""The script for the tables of published weights, on random ones: what its rows hold."""

from dataclasses import asdict
from pathlib import Path

import bench_real_models
import pytest
from performance_tables import quality_table

from tiny_checkpoints import sequence_classifier


def test_a_row_for_each_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = sequence_classifier(tmp_path / "c").folder
    monkeypatch.setattr(bench_real_models, "real_checkpoint", lambda kind: checkpoint)
    model = bench_real_models.Model("smollm2-classifier", tmp_path, pairs=3)
    found = list(bench_real_models.rows(model, ["fp32"], ["none"]))
    assert [(row.engine, row.precision) for row in found] == [("ort-cpu", "fp32"), ("openvino", "fp32")]
    assert all(row.quality.relative_error < 1e-4 and row.quality.pairs == 3 for row in found)
    *_, first, second = quality_table(asdict(row) for row in found).splitlines()
    assert first.startswith("| fp32 | none | ort-cpu | fp32 | ") and second.startswith(
        "| fp32 | none | openvino | fp32 | "
    )
