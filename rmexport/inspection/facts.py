"""`rmexport inspect`: what a checkpoint or a bundle is, without writing anything."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rmexport.checkpoint import Checkpoint, check_weights, open_checkpoint
from rmexport.encoders import is_encoder, read_encoder_spec
from rmexport.options import ExportOptions
from rmexport.spec import CheckpointSpec, read_spec
from rmruntime.bundle import Bundle
from rmruntime.bundle.engine_record import RECORD_NAME, compiled_engines, manifest_digest, read_record
from rmruntime.bundle.graph_seal import Scoring
from rmruntime.bundle.manifest import MANIFEST_NAME, Graph, Output, PositionRule, Quantization
from rmruntime.errors import BundleError


def inspect(path: str, options: ExportOptions, *, full: bool = False) -> dict[str, Any]:
    """Facts about a checkpoint (folder or Hub id) or a bundle folder, as JSON-ready data.

    `full` also reads all weights: a checkpoint's for NaN/Inf, a bundle's for their hashes. Raises what opening raises.
    """
    if (Path(path) / MANIFEST_NAME).is_file():
        return _bundle_facts(Bundle.open(Path(path), check="full" if full else "fast"))
    checkpoint = open_checkpoint(path, revision=options.revision)
    read = read_encoder_spec if is_encoder(checkpoint.config) else read_spec
    facts = _checkpoint_facts(checkpoint, read(checkpoint, options))
    if full:
        facts["not_finite"] = [asdict(fault) for fault in check_weights(checkpoint)]
    return facts


def _checkpoint_facts(checkpoint: Checkpoint, spec: CheckpointSpec) -> dict[str, Any]:
    return {
        "kind": "checkpoint",
        "path": str(checkpoint.folder),
        "repo": checkpoint.repo,
        "revision": checkpoint.revision,
        "family": spec.family_name,
        "head": spec.head_name,
        "recipe": spec.recipe.name if spec.recipe else None,
        "dtype": spec.dtype,
        "quantization": _quantization(spec.quantization),
        "dtypes_on_disk": _dtypes(checkpoint),
        **asdict(spec.backbone),
        "tensors": len(checkpoint.tensors),
        "bytes": sum(t.nbytes for t in checkpoint.tensors.values()),
        **_scoring_facts(spec),
        "because": dict(spec.because),
        "notes": list(spec.notes),
    }


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "kind": "bundle",
        "created_by": manifest.created_by,
        "repo": manifest.source.repo,
        "revision": manifest.source.revision,
        "head": manifest.head,
        "dtype": manifest.dtype,
        "quantization": _quantization(manifest.quantization),
        **asdict(manifest.backbone),
        **_scoring_facts(manifest),
        "graphs": [_graph(graph) for graph in manifest.graphs],
        "engines": [_engine(folder, bundle.folder) for folder in compiled_engines(bundle.folder)],
        "bytes": sum(f.size for f in manifest.files),
        "options": dict(manifest.options),
        "notes": list(manifest.notes),
    }


def _scoring_facts(scoring: Scoring) -> dict[str, Any]:
    """How conversations become tokens, which tokens are scored, and what that returns."""
    form = scoring.format
    return {
        "format": f"{form.layout}, BOS {form.bos}, a {form.unit} at a time",
        "positions": {role: _position(rule) for role, rule in scoring.positions.items()},
        "outputs": [_output(output) for output in scoring.outputs],
    }


def _graph(graph: Graph) -> str:
    stages = f", also in {len(graph.stages)} stages" if graph.stages else ""
    past = ", also with a past" if graph.past is not None else ""
    return f"{graph.file} ({graph.dialect}, computes in {graph.compute_dtype}{stages}{past})"


def _engine(folder: Path, bundle: Path) -> str:
    """A compiled engine in a line; one that no backend will take, with the reason."""
    name = f"{folder.parent.name}/{folder.name}"
    try:
        found = read_record(folder / RECORD_NAME)
    except BundleError as error:
        return f"{name}: {error}"
    stale = "" if found.manifest == manifest_digest(bundle) else "; stale: the bundle was exported again since"
    return (
        f"{name}: {found.library} {found.version} for {found.gpu} (compute capability {found.compute_capability}), "
        f"computes in {found.compute_dtype}, {found.batch_tokens} tokens a pass, {found.size / 1e6:.1f} MB{stale}"
    )


def _quantization(found: Quantization | None) -> str | None:
    """What is stored in fewer bits, and how; None where nothing is."""
    if found is None:
        return None
    scales = f"a scale for {found.block_size} inputs" if found.block_size else "a scale an output channel"
    return f"{found.scheme} for {found.parameters:,} parameters of linear layers, {scales}"


def _dtypes(checkpoint: Checkpoint) -> dict[str, int]:
    held: dict[str, int] = {}
    for tensor in checkpoint.tensors.values():
        held[tensor.dtype] = held.get(tensor.dtype, 0) + tensor.nbytes
    return held


def _position(rule: PositionRule) -> str:
    details = [f"pad id {rule.pad_id}"] if rule.pad_id is not None else []
    details += [f"{rule.text!r} = {list(rule.tokens)}"] if rule.tokens else []
    return " ".join([rule.rule, *(f"({d})" for d in details)])


def _output(output: Output) -> str:
    labels = f": {', '.join(output.labels)}" if output.labels else ""
    return f"{output.name} per {output.per}{labels}"


def text(facts: dict[str, Any]) -> str:
    """The facts as aligned lines; lists get one line per entry."""
    width = max(len(key) for key in facts)
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            value = [f"{name}: {entry}" for name, entry in value.items()]
        entries = value if isinstance(value, list) else [value]
        for i, entry in enumerate(entries):
            lines.append(f"{key if i == 0 else '':<{width}}  {'-' if entry is None else entry}")
    return "\n".join(lines)
