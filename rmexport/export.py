"""The recipe of an export, a step a line: checkpoint -> spec -> weights -> graphs -> bundle."""

from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir

from rmexport.bundle_writer import new_bundle, write_file
from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.description import Description, describe, describe_encoder
from rmexport.dialects import dialects_for
from rmexport.encoders import is_encoder, read_encoder_spec, store_encoder
from rmexport.graph.vocabulary import Dialect
from rmexport.options import ExportOptions
from rmexport.spec import ModelSpec, build_graph, read_spec
from rmexport.version import __version__
from rmexport.weights import Progress, StoredWeights, store_weights
from rmruntime.manifest import MANIFEST_NAME, SCHEMA_VERSION, FileRecord, Graph, Manifest, Source, encode_manifest


def export(
    checkpoint: str, bundle: str | Path, options: ExportOptions | None = None, progress: Progress | None = None
) -> Manifest:
    """Turn a reward checkpoint (a local folder or a Hub id) into a bundle folder.

    `progress` is told (bytes done, bytes in total) while weights are written. Raises CheckpointError,
    UnsupportedModel, OptionError, TargetExists or WriteError; the target is then untouched.
    """
    options = options or ExportOptions()
    with new_bundle(Path(bundle), overwrite=options.overwrite) as folder:
        source = open_checkpoint(checkpoint, revision=options.revision)
        write = _write_encoder if is_encoder(source.config) else _write_decoder
        manifest = write(source, folder, options, progress)
        write_file(folder, MANIFEST_NAME, encode_manifest(manifest))
    return manifest


def _write_decoder(source: Checkpoint, folder: Path, options: ExportOptions, progress: Progress | None) -> Manifest:
    """Everything but the manifest of a checkpoint whose graphs are built."""
    spec = read_spec(source, options)
    weights = store_weights(source, spec.stored, folder, options, progress)
    graphs, graph_files = _write_graphs(spec, weights, folder)
    return _manifest(source, describe(spec), options, graphs, graph_files, weights, folder)


def _write_encoder(source: Checkpoint, folder: Path, options: ExportOptions, progress: Progress | None) -> Manifest:
    """Everything but the manifest of a checkpoint whose one graph is traced."""
    spec = read_encoder_spec(source, options)
    stored = store_encoder(source, spec, folder, options, progress)
    file = write_file(folder, stored.graph.file, stored.onnx, role="graph")
    return _manifest(source, describe_encoder(spec), options, (stored.graph,), (file,), stored.weights, folder)


def _write_graphs(
    spec: ModelSpec, weights: StoredWeights, folder: Path
) -> tuple[tuple[Graph, ...], tuple[FileRecord, ...]]:
    graphs, files = [], []
    for dialect in dialects_for(spec.quantization):
        for compute_dtype in dialect.compute_dtypes(spec.dtype):
            file = f"{dialect.NAME}.{compute_dtype}.packed.onnx"
            model = build_graph(dialect, compute_dtype, spec, weights.locations).model(dialect.NAME)
            files.append(write_file(folder, file, ir.to_proto(model).SerializeToString(), role="graph"))
            graphs.append(_graph(dialect, compute_dtype, file, spec))
    return tuple(graphs), tuple(files)


def _graph(dialect: type[Dialect], compute_dtype: str, file: str, spec: ModelSpec) -> Graph:
    return Graph(
        file=file,
        dialect=dialect.NAME,
        compute_dtype=compute_dtype,
        key_multiple=dialect.KEY_MULTIPLE,
        row_groups=dialect.ROW_GROUPS,
        token_chunk=dialect.TOKEN_CHUNK,
        attention="pages" if dialect.PAGE_SIZE else "rows",
        page_size=dialect.PAGE_SIZE,
        least_reads=dialect.LEAST_QUANTIZED_ROWS if spec.quantization else Graph.least_reads,
    )


def _write_text(found: Description, folder: Path) -> tuple[FileRecord, ...]:
    tokenizer, template = found.tokenizer, found.format.template
    files = [write_file(folder, "tokenizer.json", tokenizer.tokenizer_json, role="tokenizer")]
    if template is not None and tokenizer.template is not None:
        files.append(write_file(folder, template, tokenizer.template.encode(), role="template"))
    return tuple(files)


def _source(checkpoint: Checkpoint, weights: StoredWeights) -> Source:
    """What was read, with the hashes of weights that were learned while they passed through."""
    files = {f.name: f for f in (*checkpoint.source_files, *weights.sources)}
    return Source(repo=checkpoint.repo, revision=checkpoint.revision, files=tuple(files.values()))


def _manifest(
    source: Checkpoint,
    found: Description,
    options: ExportOptions,
    graphs: tuple[Graph, ...],
    graph_files: tuple[FileRecord, ...],
    weights: StoredWeights,
    folder: Path,
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        created_by=f"rmexport {__version__}",
        source=_source(source, weights),
        backbone=found.backbone,
        head=found.head,
        dtype=found.dtype,
        options=_given(found, options),
        format=found.format,
        positions=found.positions,
        outputs=found.outputs,
        score=found.score,
        graphs=graphs,
        files=(*graph_files, *_write_text(found, folder), *weights.files),
        notes=found.notes,
        quantization=found.quantization,
    )


def _given(found: Description, options: ExportOptions) -> dict[str, str]:
    """The choices that shape the result, as strings; a recipe found by repository counts as given."""
    shaping = ("dtype", "recipe", "bos", "step_joiner", "score_label", "pinned_date", "quantize")
    given = {k: str(v) for k, v in asdict(options).items() if k in shaping and v is not None}
    return given | ({"recipe": options.recipe or found.recipe} if found.recipe else {})
