"""Bundles changed as somebody would who knows the format: every digest that can be computed anew is."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from rmexport import export
from rmexport.options import ExportOptions
from rmruntime.bundle.graph_seal import SEAL_KEY
from rmruntime.bundle.manifest import MANIFEST_NAME, digest
from tiny_checkpoints import TinyShape, sequence_classifier

RECORD = {"prompt": "Where does the heron nest?", "response": "By the weir."}


def small_bundle(folder: Path, layers: int, options: ExportOptions | None = None) -> Path:
    """The bundle of a classifier with so many layers, in `folder`."""
    sequence_classifier(folder / "checkpoint", TinyShape(num_hidden_layers=layers))
    export(str(folder / "checkpoint"), folder / "exported", options)
    return folder / "exported"


def copied(bundle: Path, target: Path) -> Path:
    """A copy whose weights are links to the same files."""
    shutil.copytree(bundle, target, copy_function=_link_weights)
    return target


def _link_weights(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        Path(target).hardlink_to(source)
    else:
        shutil.copyfile(source, target)


def manifest_of(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / MANIFEST_NAME).read_bytes())
    return data


def write_manifest(folder: Path, data: dict[str, Any]) -> None:
    """With a digest of its own that fits."""
    data = {name: value for name, value in data.items() if name != "digest"}
    text = json.dumps({**data, "digest": digest(data)}, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST_NAME).write_bytes(text.encode())


def rewrite_file(folder: Path, name: str, raw: bytes) -> None:
    """Another content under a name that the manifest lists, size and hash in the manifest included."""
    (folder / name).unlink()
    (folder / name).write_bytes(raw)
    data = manifest_of(folder)
    for record in data["files"]:
        if record["name"] == name:
            record |= {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    write_manifest(folder, data)


def graph_names(folder: Path) -> list[str]:
    return [record["name"] for record in manifest_of(folder)["files"] if record["role"] == "graph"]


def change_graphs(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """The same change to every graph."""
    for name in graph_names(folder):
        model = onnx.load(folder / name, load_external_data=False)
        change(model)
        rewrite_file(folder, name, model.SerializeToString())


def without_seal(model: onnx.ModelProto) -> None:
    """As exporters wrote graphs before the graphs themselves said what they were written with."""
    kept = [entry for entry in model.metadata_props if entry.key != SEAL_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
