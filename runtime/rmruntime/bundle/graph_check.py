"""Checks a bundle's graphs, before any engine reads them, against the manifest and the weights' files.

An engine reads whatever files a graph names, so a graph may name only bytes of the manifest's own weights. Its inputs
and outputs must be those that the manifest promises, because the inputs of a pass are made from the manifest.
"""

import math
from collections.abc import Iterable, Iterator

from rmruntime.bundle.bundle import GRAPH_LIMIT, Bundle
from rmruntime.bundle.graph_names import (
    HIDDEN_IN,
    HIDDEN_OUT,
    INPUT_IDS,
    KEY_PAGES,
    PADDED_INPUTS,
    PAGE_INPUTS,
    PAST_PAGE_INPUTS,
    READ_INDEX,
    READ_ROWS,
    READ_UNPACK_INDEX,
    TOKEN_INPUTS,
    layer_pages,
    past_inputs,
    past_names,
    role_index,
    row_groups,
    row_names,
)
from rmruntime.bundle.graph_seal import seal_faults, sealed_values
from rmruntime.bundle.manifest import Graph, Manifest, Stage
from rmruntime.bundle.onnx_file import OnnxFacts, TensorFacts, read_onnx
from rmruntime.bundle.protobuf_fields import WireError
from rmruntime.bundle.regular_files import read_regular
from rmruntime.errors import BundleError, listing

# Domains of operators that engines implement; any other would load a library or script that the graph names.
DOMAINS = ("", "ai.onnx", "com.microsoft")
REFUSED_OPS = ("EPContext",)  # reads a file that its attributes name
# ONNX's numbers of the element types that weights are stored in, with bits per element.
_ITEM_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16}
_ITEM_BITS |= {17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4}
_ONNX_TYPES = {"fp32": 1, "fp16": 10, "bf16": 16}
_EXTERNAL_KEYS = {"location", "offset", "length"}
_PASSED_ON = ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze")
_LISTED = 10  # faults of a graph named in a message


def check_graphs(bundle: Bundle, *, past: bool = True) -> None:
    """Raises BundleError for a graph that reads more than the bundle's weights, or is not what the manifest says.

    Without `past` those with a past are not read: for callers that load none of them.
    """
    sizes = {record.name: record.size for record in bundle.manifest.files if record.role == "weights"}
    faults: list[str] = []
    for graph, stage in _forms(bundle.manifest, past=past):
        file = graph.file if stage is None else stage.file
        found = list(_file_faults(bundle, file, graph, stage, sizes))
        if found:
            faults.append(f"{file}: {listing(found, _LISTED, separator='; ')}")
    if faults:
        raise BundleError(
            f"the bundle {bundle.folder} cannot be trusted: {'. '.join(faults)}. Export it again, and load no bundle "
            "that was changed after export"
        )


def _forms(manifest: Manifest, *, past: bool) -> Iterator[tuple[Graph, Stage | None]]:
    """Every graph whole, in its stages, and with a past."""
    for graph in manifest.graphs:
        yield from ((graph, stage) for stage in (None, *graph.stages))
        if past and graph.past is not None:
            form = graph.of_past()
            yield from ((form, stage) for stage in (None, *form.stages))


def _file_faults(bundle: Bundle, file: str, graph: Graph, stage: Stage | None, sizes: dict[str, int]) -> Iterator[str]:
    try:
        facts = read_onnx(read_regular(bundle.path(file), GRAPH_LIMIT))
    except WireError as error:
        yield f"it is not an ONNX model ({error})"
        return
    except OSError as error:
        yield f"it cannot be read ({error.strerror})"
        return
    yield from facts.oddities
    yield from _operator_faults(facts)
    yield from (fault for tensor in facts.tensors for fault in _external_faults(tensor, sizes))
    layers = None if stage is None else (stage.first, stage.last)
    yield from seal_faults(facts.metadata, sealed_values(bundle.manifest, graph, layers))
    yield from _interface_faults(facts, bundle.manifest, graph, stage)
    yield from _embedding_faults(facts, bundle.manifest)


def _operator_faults(facts: OnnxFacts) -> Iterator[str]:
    known = {(node.domain, node.op_type) for node in facts.nodes}
    for domain, op_type in sorted(known):
        if domain not in DOMAINS or op_type in REFUSED_OPS:
            yield f"it has the operator {op_type!r} of {domain!r}, which no engine here may run"


def _external_faults(tensor: TensorFacts, sizes: dict[str, int]) -> Iterator[str]:
    if not tensor.location and not tensor.external:
        return
    name = f"the tensor {tensor.name!r}"
    entries = dict(tensor.external)
    if tensor.location != 1 or len(entries) < len(tensor.external) or set(entries) != _EXTERNAL_KEYS:
        found = ", ".join(key for key, _ in tensor.external)
        yield f"{name} gives its place by {found or 'nothing'}, expected location, offset and length, once each"
        return
    if entries["location"] not in sizes:
        yield f"{name} is in {entries['location']!r}, which is none of the manifest's weights"
        return
    offset, length = _natural(entries["offset"]), _natural(entries["length"])
    if offset is None or length is None or offset + length > sizes[entries["location"]]:
        yield (
            f"{name} takes {entries['length']!r} bytes at {entries['offset']!r} of {entries['location']}, which has "
            f"{sizes[entries['location']]}"
        )
    elif length != _nbytes(tensor):
        yield f"{name} takes {length} bytes, its shape {list(tensor.dims)} needs {_nbytes(tensor)}"


def _natural(text: str) -> int | None:
    """A whole number in plain digits, else None: parsers differ in what they do with signs, spaces and other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else None


def _nbytes(tensor: TensorFacts) -> int | None:
    """The tensor's size in bytes; None for a shape or an element type that a weight cannot have."""
    bits = _ITEM_BITS.get(tensor.data_type)
    if bits is None or len(tensor.dims) > 8 or not all(0 <= size < 1 << 40 for size in tensor.dims):
        return None
    return -(-math.prod(tensor.dims) * bits // 8)


def _interface_faults(facts: OnnxFacts, manifest: Manifest, graph: Graph, stage: Stage | None) -> Iterator[str]:
    """Differences between the graph's inputs and outputs and those of the manifest; a graph may lack inputs."""
    allowed = {*_inputs_of(manifest, graph)} | ({HIDDEN_IN} if stage is not None and stage.first > 0 else set())
    if extra := sorted(set(facts.inputs) - set(facts.initializers) - allowed):
        yield f"it has the inputs {', '.join(map(repr, extra))}, which the manifest does not give it"
    whole = stage is None or (stage.first == 0 and stage.last == manifest.backbone.num_layers - 1)
    if (HIDDEN_IN in facts.inputs) != (stage is not None and stage.first > 0):
        yield f"{'it has' if HIDDEN_IN in facts.inputs else 'it lacks'} the input {HIDDEN_IN}"
    if graph.layout == "packed" and (stage is None or stage.first == 0):
        yield from _packing_faults(facts, graph)
    yield from _past_faults(facts, manifest, graph, stage)
    if whole or (stage is not None and stage.last == manifest.backbone.num_layers - 1):
        yield from _output_faults(facts, manifest, graph)
    elif set(facts.outputs) - {*manifest.past_outputs(graph)} != {HIDDEN_OUT}:
        yield f"it has the outputs {', '.join(facts.outputs)}, expected {HIDDEN_OUT}"


def _inputs_of(manifest: Manifest, graph: Graph) -> Iterator[str]:
    """Names of all input arrays that `batching` makes for such a graph."""
    if graph.layout == "padded":
        yield from PADDED_INPUTS
        return
    yield from (*TOKEN_INPUTS, READ_INDEX)
    yield from (role_index(role) for role in manifest.positions)
    if graph.attention == "pages":
        yield from PAGE_INPUTS
        if graph.takes_past:
            yield from PAST_PAGE_INPUTS
            yield from (name for layer in range(manifest.backbone.num_layers) for name in layer_pages(layer))
        return
    yield from (READ_UNPACK_INDEX, *READ_ROWS.names)
    if graph.takes_past:
        yield from past_inputs(manifest.backbone.num_layers)
    for group in range(graph.row_groups):
        yield from row_names(group).names


def _packing_faults(facts: OnnxFacts, graph: Graph) -> Iterator[str]:
    """Differences between the inputs' shapes and the manifest's values that the inputs are made with."""
    ids = facts.inputs.get(INPUT_IDS)
    rank, expected = (len(ids.dims) if ids and ids.dims is not None else None), 2 if graph.token_chunk else 1
    if rank != expected:
        yield f"its input_ids have {rank} dimensions, with token_chunk {graph.token_chunk} there must be {expected}"
    if graph.attention == "rows":
        groups = row_groups(facts.inputs)
        if groups not in (0, graph.row_groups):  # none where only the last layer has attention
            yield f"it takes {groups} groups of attention rows, the manifest says {graph.row_groups}"
        return
    pages = facts.inputs.get(KEY_PAGES)
    if pages is not None and (pages.dims or ("", ""))[1] != graph.page_size:
        yield f"its pages have {(pages.dims or ('', '?'))[1]} keys, the manifest says {graph.page_size}"


def _past_faults(facts: OnnxFacts, manifest: Manifest, graph: Graph, stage: Stage | None) -> Iterator[str]:
    """Every layer's keys and values, in and out, of the width and dtype that the runtime keeps them in."""
    if graph.past is None or not graph.takes_past:
        return
    layers = range(manifest.backbone.num_layers)
    own = layers if stage is None else layers[stage.first : stage.last + 1]
    if graph.attention == "pages":
        yield from _page_faults(facts, graph, [name for layer in own for name in layer_pages(layer)])
        return
    for layer in map(past_names, own):
        for held, names in ((facts.inputs, layer.inputs), (facts.outputs, layer.outputs)):
            for name in names:
                dims = held[name].dims if name in held else None
                fits = dims is not None and len(dims) == 2 and dims[1] == graph.past.features
                if not fits or held[name].data_type != _ONNX_TYPES[graph.compute_dtype]:
                    yield f"its {name} is no [., {graph.past.features}] of {graph.compute_dtype}"


def _page_faults(facts: OnnxFacts, graph: Graph, names: Iterable[str]) -> Iterator[str]:
    """Every layer's pages, of the manifest's size and dtype; heads may be wider there, so that a kernel takes them."""
    assert graph.past is not None  # `_past_faults` looked
    for name in names:
        dims = facts.inputs[name].dims if name in facts.inputs else None
        sizes = [size for size in (dims or ())[1:] if isinstance(size, int)]
        fits = len(sizes) == 3 and sizes[0] == graph.page_size and sizes[1] * sizes[2] >= graph.past.features
        if not fits or facts.inputs[name].data_type != _ONNX_TYPES[graph.compute_dtype]:
            yield f"its {name} is no pages of {graph.page_size} keys of {graph.past.features} {graph.compute_dtype}"


def _output_faults(facts: OnnxFacts, manifest: Manifest, graph: Graph) -> Iterator[str]:
    wanted = {output.name: output.labels for output in manifest.outputs}
    if set(facts.outputs) - {*manifest.past_outputs(graph)} != set(wanted):
        yield f"it has the outputs {', '.join(facts.outputs)}, the manifest says {', '.join(wanted)}"
        return
    for name, labels in wanted.items():
        dims = facts.outputs[name].dims
        if facts.outputs[name].data_type != 1 or dims is None or len(dims) != (1 if labels is None else 2):
            yield f"its output {name} is no {'list' if labels is None else 'table'} of fp32 numbers"
        elif labels is not None and dims[1] != len(labels):
            yield f"its output {name} is {dims[1]} wide, the manifest has {len(labels)} labels for it"


def _embedding_faults(facts: OnnxFacts, manifest: Manifest) -> Iterator[str]:
    """Embeddings with fewer rows than there are token ids, which index the rows."""
    for tensor in _embeddings(facts):
        if tensor.dims and tensor.dims[0] < manifest.backbone.vocab_size:
            yield (
                f"its embedding {tensor.name} has {tensor.dims[0]} rows, the manifest says vocab_size "
                f"{manifest.backbone.vocab_size}"
            )


def _embeddings(facts: OnnxFacts) -> Iterable[TensorFacts]:
    """Initializers that input_ids index, directly or through operators that pass their input on."""
    origin = {name: name for name in (*facts.initializers, INPUT_IDS)}
    for node in facts.nodes:
        if node.op_type in _PASSED_ON and node.inputs and node.inputs[0] in origin:
            origin |= dict.fromkeys(node.outputs, origin[node.inputs[0]])
        elif node.op_type == "Gather" and len(node.inputs) == 2 and origin.get(node.inputs[1]) == INPUT_IDS:
            table = facts.initializers.get(origin.get(node.inputs[0], ""))
            if table is not None:
                yield table
