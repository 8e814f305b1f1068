"""The steps of an export, one per line: checkpoint -> spec -> weights -> graphs -> bundle."""

import json
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from rmexport.checkpoint import Checkpoint, open_checkpoint
from rmexport.dialects import dialects_for
from rmexport.encoders import is_encoder, read_encoder_spec, store_encoder
from rmexport.errors import OptionError
from rmexport.graph.dialect import Dialect
from rmexport.graph.stages import LayerSpan, stage_spans, weight_ranges
from rmexport.options import ExportOptions
from rmexport.output.atomic_folder import new_folder, write_file
from rmexport.output.staging_folder import Notify, ignore
from rmexport.prompt.recipe import recipe_for
from rmexport.spec import CheckpointSpec, ModelSpec, build_graph, read_spec
from rmexport.version import __version__
from rmexport.weights import Journal, Progress, Reports, StoredWeights, store_weights
from rmexport.weights.shard_journal import settle
from rmexport.weights.weight_spec import WeightLocation
from rmruntime.bundle.bundle import MANIFEST_LIMIT
from rmruntime.bundle.graph_seal import SEAL_KEY, encode_seal, sealed_values
from rmruntime.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    TOKENIZER_NAME,
    FileRecord,
    Graph,
    Manifest,
    Past,
    Source,
    Stage,
    encode_manifest,
)
from rmruntime.bundle.regular_files import read_regular


def export(
    checkpoint: str,
    bundle: str | Path,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
    notify: Notify = ignore,
) -> Manifest:
    """Turn a reward checkpoint (a local folder or a Hub id) into a bundle folder.

    `progress` is told (bytes done, bytes in total) while weights are written, and `notify` what of an interrupted
    export is taken over, or kept for the next. Raises CheckpointError, UnsupportedModel, OptionError, TargetExists or
    WriteError; the target is then untouched.
    """
    options = options or ExportOptions()
    overwrite, restart = options.overwrite, options.restart
    with new_bundle(Path(bundle), overwrite=overwrite, restart=restart, notify=notify) as folder:
        source = open_checkpoint(checkpoint, revision=options.revision)
        write = _write_encoder if is_encoder(source.config) else _write_decoder
        manifest = write(source, folder, options, Reports(progress, notify, Journal(folder)))
        write_file(folder, MANIFEST_NAME, encode_manifest(manifest))
    return manifest


def _write_decoder(source: Checkpoint, folder: Path, options: ExportOptions, reports: Reports) -> Manifest:
    """Everything but the manifest of a checkpoint whose graphs are built."""
    spec = read_spec(source, options)
    spans = stage_spans(options, spec.config.num_hidden_layers)  # its errors before anything is written
    weights = store_weights(source, spec.weights, folder, options, reports)
    graphs, graph_files = _write_graphs(spec, weights, spans, folder)
    return _manifest(source, spec, options, graphs, graph_files, weights, folder)


def _write_encoder(source: Checkpoint, folder: Path, options: ExportOptions, reports: Reports) -> Manifest:
    """Everything but the manifest of a checkpoint whose one graph is traced."""
    if options.stages > 1 or options.stage_layers is not None:
        raise OptionError(f"a {source.config.get('model_type')} encoder has no stages: leave --stages out")
    spec = read_encoder_spec(source, options)
    reports.journal.take_over({}, reports.notify)  # encoders are small: nothing of them is continued
    encoder = store_encoder(source, spec, folder, options, reports.progress)
    encoder.model.metadata_props[SEAL_KEY] = encode_seal(sealed_values(spec, encoder.graph, None))
    onnx = ir.to_proto(encoder.model).SerializeToString()
    file = write_file(folder, encoder.graph.file, onnx, role="graph")
    return _manifest(source, spec, options, (encoder.graph,), (file,), encoder.weights, folder)


def _write_graphs(
    spec: ModelSpec, weights: StoredWeights, spans: Sequence[LayerSpan], folder: Path
) -> tuple[tuple[Graph, ...], tuple[FileRecord, ...]]:
    graphs, files = [], []
    for dialect in dialects_for(spec.quantization, causal=spec.family.causal):
        for compute_dtype in dialect.compute_dtypes(spec.dtype):
            whole = _graph(dialect, compute_dtype, spec)
            written = _GraphFiles(dialect, whole, spec, weights, folder)
            written.write(whole, None)
            if whole.past is not None:
                written.write(whole.of_past(), None)
            graphs.append(replace(whole, stages=tuple(_stage(written, span) for span in spans)))
            files += written.files
    return tuple(graphs), tuple(files)


@dataclass
class _GraphFiles:
    """The files of one dialect and arithmetic: the `whole` graph, the one with a past, and those of its stages."""

    dialect: type[Dialect]
    whole: Graph
    spec: ModelSpec
    weights: StoredWeights
    folder: Path
    files: list[FileRecord] = field(default_factory=list)

    def write(self, graph: Graph, span: LayerSpan | None) -> Collection[WeightLocation]:
        """One graph's file, sealed; returns where the weights lie that it reads."""
        layers = None if span is None else self.layers(span)
        locations, past = self.weights.locations, graph.takes_past
        writer = build_graph(self.dialect, graph.compute_dtype, self.spec, locations, span, past=past)
        model = writer.model(self.dialect.NAME)
        model.metadata_props[SEAL_KEY] = encode_seal(sealed_values(self.spec, graph, layers))
        proto = ir.to_proto(model)
        self.files.append(write_file(self.folder, graph.file, proto.SerializeToString(), role="graph"))
        return writer.read_locations()

    def layers(self, span: LayerSpan) -> tuple[int, int]:
        """The first and the last of a stage."""
        layers = span.of(self.spec.config.num_hidden_layers)
        return layers[0], layers[-1]


def _stage(written: _GraphFiles, span: LayerSpan) -> Stage:
    first, last = written.layers(span)
    file = f"{written.whole.file.removesuffix('.onnx')}.layers-{first:03}-{last:03}.onnx"
    read = written.write(replace(written.whole, file=file), span)
    nbytes = sum(location.nbytes for location in read)
    past = f"{file.removesuffix('.onnx')}.past.onnx" if written.whole.past is not None else None
    stage = Stage(file=file, first=first, last=last, weight_bytes=nbytes, ranges=weight_ranges(read), past=past)
    if past is not None:
        form = replace(written.whole, stages=(stage,)).of_past()
        written.write(form.of_stage(form.stages[0]), span)
    return stage


def _graph(dialect: type[Dialect], compute_dtype: str, spec: ModelSpec) -> Graph:
    stem = f"{dialect.NAME}.{compute_dtype}.packed"
    return Graph(
        file=f"{stem}.onnx",
        dialect=dialect.NAME,
        compute_dtype=compute_dtype,
        key_multiple=dialect.KEY_MULTIPLE,
        row_groups=dialect.ROW_GROUPS,
        token_chunk=dialect.TOKEN_CHUNK,
        attention="pages" if dialect.PAGE_SIZE else "rows",
        page_size=dialect.page_size(spec.config.head_dim),
        least_reads=dialect.LEAST_QUANTIZED_ROWS if spec.quantization else Graph.least_reads,
        past=Past(file=f"{stem}.past.onnx", features=spec.config.key_size)
        if dialect.TAKES_PAST and spec.family.causal
        else None,
        causal=spec.family.causal,
    )


def _write_text(spec: CheckpointSpec, folder: Path) -> tuple[FileRecord, ...]:
    tokenizer, template = spec.tokenizer, spec.format.template
    files = [write_file(folder, TOKENIZER_NAME, tokenizer.tokenizer_json, role="tokenizer")]
    if template is not None and tokenizer.template is not None:
        files.append(write_file(folder, template, tokenizer.template.encode(), role="template"))
    return tuple(files)


def _source(checkpoint: Checkpoint, weights: StoredWeights) -> Source:
    """What was read, with the hashes of weights that were learned while they passed through."""
    files = {f.name: f for f in (*checkpoint.source_files, *weights.sources)}
    return Source(repo=checkpoint.repo, revision=checkpoint.revision, files=tuple(files.values()))


def _manifest(
    source: Checkpoint,
    spec: CheckpointSpec,
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
        backbone=spec.backbone,
        head=spec.head_name,
        dtype=spec.dtype,
        options=_given(source, options),
        format=spec.format,
        positions=spec.positions,
        outputs=spec.outputs,
        score=spec.score,
        graphs=graphs,
        files=(*graph_files, *_write_text(spec, folder), *weights.files),
        notes=spec.notes,
        quantization=spec.quantization,
    )


def _given(source: Checkpoint, options: ExportOptions) -> dict[str, str]:
    """The choices that shape the result, as strings; a recipe found by repository counts as given.

    One that the head brings along does not: it is found again wherever the checkpoint is.
    """
    shaping = ("dtype", "recipe", "bos", "step_joiner", "score_label", "pinned_date", "quantize")
    given = {k: str(v) for k, v in asdict(options).items() if k in shaping and v is not None}
    recipe = recipe_for(options.recipe, source.repo)
    return given | ({"recipe": options.recipe or recipe.name} if recipe else {})


def new_bundle(
    target: Path, *, overwrite: bool, restart: bool = False, notify: Notify = ignore
) -> AbstractContextManager[Path]:
    """`new_folder` for a bundle, whose complete shards a later export can take over."""
    return new_folder(
        target,
        overwrite=overwrite,
        kind="bundle",
        marker=_is_bundle,
        keep_reusable=settle,
        restart=restart,
        notify=notify,
    )


def _is_bundle(target: Path) -> bool:
    """Other things have a manifest.json too, web pages for one; only ours has these two fields."""
    try:
        manifest = json.loads(read_regular(target / MANIFEST_NAME, MANIFEST_LIMIT))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(manifest, dict) and {"schema_version", "digest"} <= set(manifest)
