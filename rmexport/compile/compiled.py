"""The steps of a compilation: bundle -> network -> profiles -> engine in the bundle's folder `engines`."""

from dataclasses import dataclass
from pathlib import Path

from rmexport.compile.attention_memory import packed_key_slots, padded_key_slots
from rmexport.compile.device import TargetDevice, engine_name, find_device
from rmexport.compile.engine_file import Progress, build_engine
from rmexport.compile.library import find_library
from rmexport.compile.network import Network, parse
from rmexport.compile.options import CompileOptions
from rmexport.compile.profiles import Limits, chosen_length, longest_packed, packed_profiles, padded_profiles
from rmexport.compile.resource_check import check_room
from rmexport.compile.tensorrt_rewrites import ParserModel, parser_model
from rmexport.errors import NotCompilable
from rmexport.output.atomic_folder import new_folder, write_file
from rmexport.output.deferred_interrupt import deferred_interrupt
from rmexport.version import __version__
from rmruntime.bundle import Bundle
from rmruntime.bundle.engine_record import (
    ENGINE_NAME,
    ENGINES_FOLDER,
    RECORD_NAME,
    RECORD_VERSION,
    EngineRecord,
    Profile,
    encode_record,
    manifest_digest,
)
from rmruntime.bundle.graph_check import check_graphs
from rmruntime.bundle.graph_names import INPUT_IDS
from rmruntime.bundle.manifest import Graph, Manifest

DIALECTS = ("portable", "traced")  # the dialects that TensorRT's parser reads, and that its backend runs


@dataclass(frozen=True)
class Compiled:
    """A compiled engine: its folder and record, and the most tokens of a sequence, its own and the model's."""

    folder: Path
    record: EngineRecord
    max_length: int
    model_length: int


def compile_bundle(
    bundle: str | Path, options: CompileOptions | None = None, progress: Progress | None = None
) -> Compiled:
    """Compile an engine into the folder `engines` of a bundle; engines with other names stay.

    `progress` is called with (phase, steps done, steps in total). Raises BundleError, OptionError,
    CompilerNotInstalled, NotCompilable, CompilationFailed, TargetExists or WriteError; the bundle is then unchanged.
    """
    options = options or CompileOptions()
    opened = Bundle.open(bundle)
    check_graphs(opened)
    graph = _graph(opened)
    library = find_library(options)
    device = find_device(library, options)
    target = opened.folder / ENGINES_FOLDER / options.target / engine_name(library, device)
    with new_folder(target, overwrite=options.overwrite, kind="engine", marker=_is_engine) as folder:
        model = parser_model(opened.path(graph.file), graph)
        check_room(model.weights, folder, library, device)
        with deferred_interrupt() as interruption:
            network = parse(library, model)
            limits, profiles = _plan(opened.manifest, graph, model, network, device, options)
            size, sha256 = build_engine(
                network, profiles, device, folder / ENGINE_NAME, interruption=interruption, progress=progress
            )
        record = EngineRecord(
            record_version=RECORD_VERSION,
            created_by=f"rmexport {__version__}",
            target=options.target,
            library=library.name,
            version=library.version,
            gpu=device.gpu,
            compute_capability=device.compute_capability,
            manifest=manifest_digest(opened.folder),
            graph=graph.file,
            compute_dtype=graph.compute_dtype,
            batch_tokens=limits.tokens,
            profiles=profiles,
            size=size,
            sha256=sha256,
        )
        write_file(folder, RECORD_NAME, encode_record(record))
    return Compiled(target, record, limits.length, opened.manifest.backbone.max_length)


def _graph(bundle: Bundle) -> Graph:
    """The graph to compile. It has the bundle's own dtype, because its dialect has only one graph."""
    graphs = {graph.dialect: graph for graph in bundle.manifest.graphs}
    found = next((graphs[dialect] for dialect in DIALECTS if dialect in graphs), None)
    quantization = bundle.manifest.quantization
    if found is None and quantization is not None:
        raise NotCompilable(
            f"tensorrt cannot read {quantization.scheme} weights as they are stored: export the bundle with another "
            "--quantize, or without it"
        )
    if found is None:
        raise NotCompilable(
            f"tensorrt reads {' or '.join(DIALECTS)} graphs; this bundle has: {', '.join(sorted(graphs))}. Export it "
            "again with this version of rmexport"
        )
    if not found.causal:
        raise NotCompilable(
            "this model scores every token, and engines are compiled for passes that score few: run the bundle with "
            "another engine"
        )
    return found


def _plan(
    manifest: Manifest, graph: Graph, model: ParserModel, network: Network, device: TargetDevice, o: CompileOptions
) -> tuple[Limits, tuple[Profile, ...]]:
    """The limits of the engine's passes, and its profiles. Raises OptionError for a length that is too large."""
    packed, longest = graph.layout == "packed", manifest.backbone.max_length
    if packed:
        slots = packed_key_slots(graph, model.model, network.shapes(), device)
        possible = longest_packed(slots, graph.query_block, graph.key_multiple)
    else:
        slots = padded_key_slots(graph, manifest.backbone.hidden_size, device)
        possible = int(slots**0.5)
    limits = Limits(
        tokens=o.max_batch_tokens,
        length=chosen_length(o.max_length, longest, possible),
        sequences=o.max_sequences,
        key_slots=slots,
        query_block=graph.query_block,
        key_multiple=graph.key_multiple,
    )
    return limits, packed_profiles(limits) if packed else padded_profiles(limits, *network.inputs[INPUT_IDS])


def _is_engine(folder: Path) -> bool:
    return (folder / RECORD_NAME).is_file()
