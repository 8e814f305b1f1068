"""Checks of a manifest's parts against each other; the range of each value is at its field."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from rmruntime.bundle.manifest import PLAIN_NAME, TOKENIZER_NAME, FileRecord, Graph, Manifest, Output, Stage

# Names that the runtime itself passes to a template.
_TEMPLATE_NAMES = frozenset({"messages", "tools", "documents", "add_generation_prompt", "self", "caller"})


def manifest_faults(manifest: Manifest) -> list[str]:
    """Everything in the manifest that contradicts another part of it, one message each; reads no other file."""
    faults = [*_name_faults(manifest.files), *_reference_faults(manifest), *_output_faults(manifest)]
    faults += _token_faults(manifest)
    faults += [fault for graph in manifest.graphs for fault in _graph_faults(manifest, graph)]
    return [*faults, *_format_faults(manifest), *_quantization_faults(manifest)]


def _name_faults(files: Iterable[FileRecord]) -> Iterator[str]:
    counts = Counter(record.name for record in files)
    yield from (f"{name} is listed twice" for name, count in sorted(counts.items()) if count > 1)
    yield from (f"{name!r} is not a plain name inside the bundle" for name in counts if not _is_plain(name))


def _is_plain(name: str) -> bool:
    return PLAIN_NAME.allows(name) and bool(PurePosixPath(name).parts)


def _reference_faults(manifest: Manifest) -> Iterator[str]:
    """Files that the manifest uses without listing them, and listed files without a digest."""
    listed = {record.name: record for record in manifest.files}
    stages = [name for graph in manifest.graphs for stage in graph.stages for name in (stage.file, stage.past) if name]
    pasts = [graph.past.file for graph in manifest.graphs if graph.past is not None]
    used = {TOKENIZER_NAME: "tokenizer"}
    used |= dict.fromkeys([*(g.file for g in manifest.graphs), *stages, *pasts], "graph")
    if manifest.format.template is not None:
        used[manifest.format.template] = "template"
    for name, role in used.items():
        if name not in listed:
            yield f"{name} is the {role} and the manifest does not list it"
        elif listed[name].role != role:
            yield f"{name} is the {role} and the manifest lists it as {listed[name].role}"
    for record in manifest.files:
        if record.role != "weights" and record.sha256 is None:
            yield f"{record.name} has no sha256 in the manifest"


def _output_faults(manifest: Manifest) -> Iterator[str]:
    outputs = {output.name: output for output in manifest.outputs}
    if len(outputs) < len(manifest.outputs):
        yield "outputs: two have one name"
    if manifest.score is not None and manifest.score not in outputs:
        yield f"score is {manifest.score!r}, which is none of the outputs {', '.join(outputs)}"
    elif manifest.score is not None and outputs[manifest.score].labels is not None:
        yield f"score is {manifest.score!r}, which has labels, expected an output of one value"
    yield from _per_faults(manifest.outputs)


def _per_faults(outputs: Iterable[Output]) -> Iterator[str]:
    if len({output.per for output in outputs}) > 1:
        yield "outputs: some are per sequence and some per step, expected one of the two"


def _token_faults(manifest: Manifest) -> Iterator[str]:
    vocabulary = manifest.backbone.vocab_size
    for role, rule in manifest.positions.items():
        if any(token >= vocabulary for token in rule.tokens):
            yield f"positions.{role}: found the tokens {list(rule.tokens)}, expected ids of 0 to {vocabulary - 1}"
    for graph in manifest.graphs:
        if graph.pad_id >= vocabulary:
            yield f"{graph.file}: pad_id is {graph.pad_id}, expected an id of 0 to {vocabulary - 1}"


def _graph_faults(manifest: Manifest, graph: Graph) -> Iterator[str]:
    keys = [(g.dialect, g.compute_dtype, g.layout) for g in manifest.graphs]
    if keys.count((graph.dialect, graph.compute_dtype, graph.layout)) > 1:
        yield f"{graph.file}: another graph has the same dialect, compute_dtype and layout"
    if (graph.attention == "pages") != (graph.page_size > 0):
        yield f"{graph.file}: attention is by {graph.attention} and page_size is {graph.page_size}"
    if graph.past is not None and graph.layout != "packed":
        yield f"{graph.file}: it has a past, which a {graph.layout} graph cannot"
    if graph.stages:
        yield from (f"{graph.file}: {fault}" for fault in _stage_faults(manifest, graph.stages))


def _stage_faults(manifest: Manifest, stages: tuple[Stage, ...]) -> Iterator[str]:
    """Stages that do not have all layers, each once and in order, or that read bytes outside the weights' files."""
    sizes = {record.name: record.size for record in manifest.files if record.role == "weights"}
    following = 0
    for stage in stages:
        if stage.first != following or stage.last < stage.first:
            yield f"a stage has the layers {stage.first} to {stage.last}, expected it to begin with layer {following}"
        following = stage.last + 1
        if stage.weight_bytes > sum(sizes.values()):
            yield f"{stage.file} has weight_bytes {stage.weight_bytes}, all weights have {sum(sizes.values())}"
        if any(run.offset + run.nbytes > sizes.get(run.file, -1) for run in stage.ranges):
            yield f"{stage.file} has ranges outside the weights' files"
    if following != manifest.backbone.num_layers:
        yield f"its stages end with layer {following - 1} of {manifest.backbone.num_layers}"


def _format_faults(manifest: Manifest) -> Iterator[str]:
    form = manifest.format
    if taken := sorted(_TEMPLATE_NAMES & set(form.template_variables)):
        yield f"format.template_variables: {', '.join(taken)} are names of what the template renders"
    if len(form.pair_ids) not in (0, 3) or len(form.pair_types) not in (0, 5):
        yield f"format: found {len(form.pair_ids)} pair_ids and {len(form.pair_types)} pair_types, expected 3 and 5"
    if manifest.backbone.rope_exact and manifest.backbone.rope_length is None:
        yield "backbone: rope_exact without a rope_length"


def _quantization_faults(manifest: Manifest) -> Iterator[str]:
    found = manifest.quantization
    if found is None:
        return
    if found.parameters > manifest.backbone.parameters:
        yield f"quantization: {found.parameters} parameters of {manifest.backbone.parameters}"
    if (found.scheme == "int4") != (found.block_size > 0):
        yield f"quantization: scheme {found.scheme} with block_size {found.block_size}"
