"""An operand of a comparison: a bundle or a checkpoint, in the form in which they can be compared."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from rmexport.checkpoint import Checkpoint, TensorInfo, open_checkpoint
from rmexport.checkpoint.safetensors_source import SafetensorsReader, file_inventory
from rmexport.checkpoint.tensors import TensorReader
from rmexport.errors import OptionError
from rmruntime.bundle import Bundle
from rmruntime.bundle.graph_seal import SEAL_KEY
from rmruntime.bundle.manifest import MANIFEST_NAME, Manifest

_SETTINGS = ("backbone", "head", "dtype", "quantization", "format", "positions", "outputs", "score")


@dataclass(frozen=True, kw_only=True)
class Operand:
    """A bundle or checkpoint to compare.

    `settings` are ready for JSON; `files` are the small files with their sha256, `graphs` the names of graphs among
    them; `hashes` are the known sha256 of weight files. `merged`: an adapter is merged into the tensors, so that they
    differ from those in the files.
    """

    path: Path
    kind: Literal["bundle", "checkpoint"]
    repo: str | None
    revision: str | None
    settings: Mapping[str, Any]
    files: Mapping[str, str]
    graphs: frozenset[str]
    tensors: Mapping[str, TensorInfo]
    reader: TensorReader
    hashes: Mapping[str, str]
    merged: bool = False

    def holds_same_file(self, info: TensorInfo, other: "Operand", theirs: TensorInfo) -> bool:
        """Whether both tensors are in files that are known to be the same, without reading them."""
        if self.merged or other.merged:
            return False
        ours, stated = self.hashes.get(info.file), other.hashes.get(theirs.file)
        if ours is not None and stated is not None:
            return ours == stated
        return _is_same(self.path / info.file, other.path / theirs.file)


def open_operand(path: str, revision: str | None) -> Operand:
    """The operand at `path`: a bundle folder, or a checkpoint's folder or Hub id.

    Raises BundleError, CheckpointError, or OptionError for a revision of a bundle.
    """
    if (Path(path) / MANIFEST_NAME).is_file():
        if revision is not None:
            raise OptionError(
                f"{path} is a bundle, found the revision {revision}, expected none: its manifest has one; leave it out"
            )
        return _bundle_operand(Bundle.open(path))
    return _checkpoint_operand(open_checkpoint(path, revision=revision))


def graph_digest(path: Path) -> str:
    """sha256 of a graph without the places of its weights, which differ between bundles with different shards.

    The manifest's values in its metadata are left out too, because they are compared one by one.
    """
    model = ir.load(path)
    model.metadata_props.pop(SEAL_KEY, None)
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        tensor.ClearField("external_data")
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _bundle_operand(bundle: Bundle) -> Operand:
    manifest = bundle.manifest
    weights = [record for record in manifest.files if record.role == "weights"]
    # Parts and other forms of what is compared whole.
    forms = {name for graph in manifest.graphs for stage in graph.stages for name in (stage.file, stage.past) if name}
    forms |= {graph.past.file for graph in manifest.graphs if graph.past is not None}
    small = [record for record in manifest.files if record.role != "weights" and record.name not in forms]
    return Operand(
        path=bundle.folder,
        kind="bundle",
        repo=manifest.source.repo,
        revision=manifest.source.revision,
        settings=_settings(manifest),
        files={record.name: record.sha256 or "" for record in small},
        graphs=frozenset(record.name for record in small if record.role == "graph"),
        tensors={info.name: info for info in file_inventory(bundle.folder, [record.name for record in weights])},
        reader=SafetensorsReader(bundle.folder),
        hashes={record.name: record.sha256 for record in weights if record.sha256},
    )


def _settings(manifest: Manifest) -> Mapping[str, Any]:
    held = asdict(manifest)
    graphs = {graph.pop("file"): graph for graph in held["graphs"]}
    for graph in graphs.values():
        graph["stages"] = [f"{stage['first']}-{stage['last']}" for stage in graph["stages"]]
    return {name: held[name] for name in _SETTINGS} | {"graphs": graphs}


def _checkpoint_operand(checkpoint: Checkpoint) -> Operand:
    sources = checkpoint.source_files
    return Operand(
        path=checkpoint.folder,
        kind="checkpoint",
        repo=checkpoint.repo,
        revision=checkpoint.revision,
        settings=checkpoint.config,
        files={f.name: f.sha256 or "" for f in sources if f.role != "weights" and not _is_index(f.name)},
        graphs=frozenset(),
        tensors=checkpoint.tensors,
        reader=checkpoint.weights.reader,
        hashes={f.name: f.sha256 for f in sources if f.role == "weights" and f.sha256},
        merged=checkpoint.base is not None,
    )


def _is_index(name: str) -> bool:
    """Whether a file is left out: an index of shards, which makes no difference, or config.json, which is a setting."""
    return name.endswith((".index.json", "config.json")) and not name.endswith("tokenizer_config.json")


def _is_same(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, by hard or symbolic links or other paths."""
    return a.exists() and b.exists() and os.path.samefile(a, b)
