"""`rmexport inspect` lists a bundle's compiled engines, and says of those that no backend takes why."""

import json
from pathlib import Path

import pytest

from fake_tensorrt import compile_engine
from rmexport import ExportOptions, export
from rmexport.inspection.facts import inspect
from tiny_checkpoints import sequence_classifier


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    export(str(sequence_classifier(tmp_path / "checkpoint").folder), tmp_path / "bundle")
    return tmp_path / "bundle"


def engines(bundle: Path) -> list[str]:
    found = inspect(str(bundle), ExportOptions())["engines"]
    assert isinstance(found, list)
    return found


def test_engines_are_listed(bundle: Path) -> None:
    assert engines(bundle) == []
    first, second = compile_engine(bundle, "sm89", gpu="NVIDIA L4", compute_capability="8.9"), compile_engine(bundle)
    lines = engines(bundle)
    assert [line.partition(":")[0] for line in lines] == ["tensorrt/sm89", "tensorrt/sm90"]
    for line, record in zip(lines, (first, second), strict=True):
        assert f"{record.library} {record.version} for {record.gpu}" in line and record.compute_capability in line
        assert f"{record.batch_tokens} tokens a pass" in line and "stale" not in line


def test_engines_of_an_older_export_and_damaged_records_are_marked(bundle: Path) -> None:
    compile_engine(bundle, "old", manifest="0" * 64)
    compile_engine(bundle, "torn")
    path = bundle / "engines" / "tensorrt" / "torn" / "engine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gpu": "another"}))
    old, torn = engines(bundle)
    assert old.endswith("stale: the bundle was exported again since")
    assert "does not match its own digest" in torn
