"""Records of compiled engines: read as they were written, or an error that says what to do."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from rmruntime import BundleError
from rmruntime.bundle.engine_record import (
    EngineRecord,
    Extent,
    Profile,
    encode_record,
    engine_folders,
    manifest_digest,
    read_record,
)

RECORD = EngineRecord(
    record_version=1,
    created_by="rmexport 0.1.0",
    target="tensorrt",
    library="tensorrt",
    version="10.15.1.29",
    gpu="NVIDIA H200",
    compute_capability="9.0",
    manifest="0" * 64,
    graph="portable.bf16.packed.onnx",
    compute_dtype="bf16",
    batch_tokens=16384,
    profiles=(Profile(name="latency", dimensions={"T": Extent(least=1, tuned=512, most=2048)}),),
    size=3,
    sha256="f" * 64,
)


def written(folder: Path, record: EngineRecord = RECORD) -> Path:
    folder.mkdir(parents=True)
    (folder / "engine.json").write_bytes(encode_record(record))
    return folder / "engine.json"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_record(written(tmp_path / "e")) == RECORD


def test_engines_are_found_by_target_and_name(tmp_path: Path) -> None:
    other = replace(RECORD, gpu="NVIDIA L4")
    written(tmp_path / "engines/tensorrt/b", other)
    written(tmp_path / "engines/tensorrt/a")
    written(tmp_path / "engines/abacus/a", other)
    written(tmp_path / "engines/tensorrt/.c.partial-00000000")
    (tmp_path / "engines/tensorrt/no-record").mkdir()
    found = engine_folders(tmp_path, "tensorrt")
    assert [(folder.name, read_record(folder / "engine.json")) for folder in found] == [("a", RECORD), ("b", other)]
    assert engine_folders(tmp_path / "elsewhere", "tensorrt") == ()


def test_an_edited_record(tmp_path: Path) -> None:
    path = written(tmp_path / "e")
    path.write_text(path.read_text().replace("H200", "H100"))
    with pytest.raises(BundleError, match="changed after it was compiled; compile it again"):
        read_record(path)


def test_a_newer_record(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="record_version 2, this rmruntime reads up to 1: upgrade rmruntime"):
        read_record(written(tmp_path / "e", replace(RECORD, record_version=2)))


@pytest.mark.parametrize("content", ["", "[]", '{"record_version": "1"}', "\xff"])
def test_no_record(tmp_path: Path, content: str) -> None:
    path = written(tmp_path / "e")
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(BundleError, match="compile it again"):
        read_record(path)


def test_a_record_that_lacks_a_field(tmp_path: Path) -> None:
    path = written(tmp_path / "e")
    data = json.loads(path.read_text())
    del data["gpu"]
    path.write_text(json.dumps(data))
    with pytest.raises(BundleError, match="does not match its own digest"):
        read_record(path)


def test_the_digest_is_that_of_the_manifests_bytes(tmp_path: Path) -> None:
    """Whatever fields a release knows, an engine of an unchanged bundle stays good."""
    content = b'{"schema_version": 1}\n'
    (tmp_path / "manifest.json").write_bytes(content)
    assert manifest_digest(tmp_path) == hashlib.sha256(content).hexdigest()
    (tmp_path / "manifest.json").write_bytes(content + b" ")
    assert manifest_digest(tmp_path) != hashlib.sha256(content).hexdigest()
