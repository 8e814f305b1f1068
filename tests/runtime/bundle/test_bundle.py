"""A bundle opens when it is whole, and any damage to it is named: the small files always, the weights when asked."""

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from checkpoint_files import bf16, write_safetensors
from rmruntime.bundle import Bundle
from rmruntime.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Backbone,
    FileRecord,
    Format,
    Graph,
    Manifest,
    Output,
    PositionRule,
    Source,
    encode_manifest,
)
from rmruntime.errors import BundleError

SMALL = {"openvino.onnx": b"graph" * 99, "tokenizer.json": b'{"a": 1}', "chat_template.jinja": b"{{ messages }}"}
ROLES = {"openvino.onnx": "graph", "tokenizer.json": "tokenizer", "chat_template.jinja": "template"}
WEIGHTS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def record(folder: Path, name: str, **change: Any) -> FileRecord:
    raw = (folder / name).read_bytes()
    role: Any = ROLES.get(name, "weights")
    fields = {"name": name, "size": len(raw), "role": role, "sha256": hashlib.sha256(raw).hexdigest()}
    return FileRecord(**fields | change)


def write_manifest(folder: Path, files: tuple[FileRecord, ...], **change: Any) -> Manifest:
    backbone = Backbone(
        model_type="llama",
        architecture="LlamaForSequenceClassification",
        hidden_size=64,
        num_layers=2,
        vocab_size=300,
        max_length=512,
        parameters=1,
    )
    fields: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_by": "test",
        "source": Source(repo=None, revision=None),
        "backbone": backbone,
        "head": "sequence_classification",
        "options": {},
        "dtype": "bf16",
        "format": Format(layout="chat"),
        "positions": {"score": PositionRule(rule="last")},
        "outputs": (Output(name="score", per="sequence"),),
        "score": "score",
        "graphs": (Graph(file="openvino.onnx", dialect="openvino", compute_dtype="bf16"),),
        "files": files,
    }
    manifest = Manifest(**fields | change)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A valid bundle with three small files and two shards."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name, raw in SMALL.items():
        (bundle / name).write_bytes(raw)
    for seed, name in enumerate(WEIGHTS):
        write_safetensors(bundle / name, {f"w{seed}": bf16((8, 16), seed)})
    write_manifest(bundle, tuple(record(bundle, name) for name in (*SMALL, *WEIGHTS)))
    return bundle


def rerecord(folder: Path, name: str, **change: Any) -> None:
    """Change what the manifest says of one file."""
    names = (*SMALL, *WEIGHTS)
    write_manifest(folder, tuple(record(folder, n, **(change if n == name else {})) for n in names))


def fault(folder: Path, check: Any = "fast") -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder, check=check)
    return str(caught.value)


@pytest.mark.parametrize("check", ["fast", "full"])
def test_a_whole_bundle_opens(folder: Path, check: Any) -> None:
    (folder / "parity.json").write_text("written later, with a digest of its own")
    bundle = Bundle.open(str(folder), check=check)
    assert bundle.folder == folder
    assert bundle.manifest.dtype == "bf16"


def test_any_flipped_byte_is_found(folder: Path) -> None:
    """Fast for the small files, full for the weights; the manifest's white space counts too."""
    rng = random.Random(0)
    for name in (MANIFEST_NAME, *SMALL, *WEIGHTS):
        raw = (folder / name).read_bytes()
        positions = rng.sample(range(len(raw)), 400 if name == MANIFEST_NAME else 8)
        for position in positions:
            changed = bytearray(raw)
            changed[position] ^= rng.randrange(1, 256)
            (folder / name).write_bytes(bytes(changed))
            fault(folder, "full" if name in WEIGHTS else "fast")
        (folder / name).write_bytes(raw)
    Bundle.open(folder, check="full")


def test_fast_reads_no_weights(folder: Path) -> None:
    path = folder / WEIGHTS[0]
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    Bundle.open(folder)
    assert "another content" in fault(folder, "full")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    assert "rmexport export" in fault(tmp_path / "nowhere")
    assert "rmexport export" in fault(tmp_path)
    (tmp_path / "file").write_text("x")
    assert "rmexport export" in fault(tmp_path / "file")


@pytest.mark.parametrize("name", ["\ud800", "a\0b"])
def test_a_path_that_cannot_be(name: str) -> None:
    with pytest.raises(BundleError, match="expected the path of a folder"):
        Bundle.open(name)


def test_all_damage_is_named_at_once(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "openvino.onnx").write_bytes(b"short")
    (folder / WEIGHTS[0]).write_bytes(b"")
    message = fault(folder)
    assert "tokenizer.json is missing" in message
    assert "openvino.onnx has 5 bytes, expected 495" in message
    assert f"{WEIGHTS[0]} has 0 bytes" in message


def test_weights_with_a_broken_header(folder: Path) -> None:
    raw = (folder / WEIGHTS[1]).read_bytes()
    (folder / WEIGHTS[1]).write_bytes(b"\xff" * 8 + raw[8:])
    assert "states a header of" in fault(folder)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside", "", "a\\b", "a\0b"])
def test_names_stay_inside(folder: Path, name: str) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    files = tuple(record(folder, n) for n in (*SMALL, *WEIGHTS))
    write_manifest(folder, (*files, FileRecord(name=name, size=1, role="weights")))
    assert "not a plain name" in fault(folder)


def test_symbolic_links(folder: Path, tmp_path: Path) -> None:
    """Inside the bundle they are fine, out of it the engines refuse them, and so do we; loops are no crash."""
    (folder / WEIGHTS[0]).rename(folder / "elsewhere")
    (folder / WEIGHTS[0]).symlink_to("elsewhere")
    Bundle.open(folder, check="full")
    (folder / "elsewhere").rename(tmp_path / "elsewhere")
    (folder / WEIGHTS[0]).unlink()
    (folder / WEIGHTS[0]).symlink_to(tmp_path / "elsewhere")
    assert "leaves the bundle" in fault(folder)
    (folder / WEIGHTS[0]).unlink()
    (folder / WEIGHTS[0]).symlink_to(WEIGHTS[0])
    assert WEIGHTS[0] in fault(folder)


def test_a_bundle_behind_a_symbolic_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    Bundle.open(tmp_path / "link")


def test_a_folder_in_place_of_a_file(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    assert "not a file" in fault(folder)


def test_everything_used_is_listed(folder: Path) -> None:
    write_manifest(folder, tuple(record(folder, name) for name in WEIGHTS))
    message = fault(folder)
    assert all(name in message for name in SMALL)
    rerecord(folder, "tokenizer.json", role="graph")
    assert "lists it as graph" in fault(folder)
    rerecord(folder, "openvino.onnx", sha256=None)
    assert "no sha256" in fault(folder)
    files = tuple(record(folder, name) for name in (*SMALL, *WEIGHTS, *WEIGHTS))
    write_manifest(folder, files)
    assert "listed twice" in fault(folder)


def test_open_hashes(folder: Path) -> None:
    """Linked weights may have no hash: enough for fast, and full says how to get one."""
    rerecord(folder, WEIGHTS[0], sha256=None)
    Bundle.open(folder)
    message = fault(folder, "full")
    assert WEIGHTS[0] in message
    assert "--hash" in message


def test_rewritten_links(folder: Path) -> None:
    path = folder / WEIGHTS[0]
    rerecord(folder, WEIGHTS[0], mtime_ns=path.stat().st_mtime_ns)
    Bundle.open(folder, check="full")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert "rewritten after the export" in fault(folder)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b'{"schema_version": 1}',
        b"[" * 100_000,
        b'{"schema_version": 1, "a": "\\ud800"}',
    ],
)
def test_manifests_that_are_none(folder: Path, raw: bytes) -> None:
    (folder / MANIFEST_NAME).write_bytes(raw)
    fault(folder)


def test_another_layout_of_the_same_manifest(folder: Path) -> None:
    data = json.loads((folder / MANIFEST_NAME).read_bytes())
    (folder / MANIFEST_NAME).write_text(json.dumps(data, indent=2))
    assert "edited after export" in fault(folder)


def test_a_newer_bundle(folder: Path) -> None:
    files = tuple(record(folder, name) for name in (*SMALL, *WEIGHTS))
    write_manifest(folder, files, schema_version=SCHEMA_VERSION + 1)
    assert "upgrade rmruntime" in fault(folder)
