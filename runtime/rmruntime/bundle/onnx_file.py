"""Reads facts from an ONNX file without an engine: inputs, outputs, operators, and tensors stored in other files.

Walks ModelProto down to every tensor, wherever one can be: initializers, sparse initializers, attributes of nodes, and
all of these in the subgraphs of attributes. Field numbers are those of onnx.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rmruntime.bundle.protobuf_fields import (
    Message,
    WireError,
    as_message,
    as_number,
    as_numbers,
    as_text,
    merged,
    read_fields,
)

MAX_DEPTH = 16  # of graphs within graphs; those of rmexport have one level

Dims = tuple[int | str, ...]  # per dimension a size, or a name, or "" where the file gives neither


@dataclass(frozen=True, kw_only=True)
class TensorFacts:
    """A tensor of a graph. `external` are its external_data entries, unchanged; `location` is its data_location."""

    name: str
    dims: tuple[int, ...]
    data_type: int
    location: int
    external: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ValueFacts:
    """An input or output: ONNX's number of the element type, and its dimensions, None where the file has none."""

    data_type: int
    dims: Dims | None


@dataclass(frozen=True)
class NodeFacts:
    """A node of the main graph or of a subgraph."""

    domain: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass
class OnnxFacts:
    """The facts of a model. `initializers` are the main graph's; `tensors` are those of all graphs.

    `oddities` are parts that rmexport never writes, as clauses for a message.
    """

    inputs: dict[str, ValueFacts] = field(default_factory=dict)
    outputs: dict[str, ValueFacts] = field(default_factory=dict)
    nodes: list[NodeFacts] = field(default_factory=list)
    initializers: dict[str, TensorFacts] = field(default_factory=dict)
    tensors: list[TensorFacts] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    oddities: list[str] = field(default_factory=list)


def read_onnx(raw: bytes) -> OnnxFacts:
    """The facts of the model in `raw`, the bytes of a file. Raises WireError for bytes that are not an ONNX model.

    >>> node = bytes([10, 1]) + b"x" + bytes([18, 1]) + b"y" + bytes([34, 4]) + b"Relu"  # input, output, op_type
    >>> graph = bytes([10, len(node)]) + node
    >>> read_onnx(bytes([58, len(graph)]) + graph).nodes
    [NodeFacts(domain='', op_type='Relu', inputs=('x',), outputs=('y',))]
    """
    facts, graphs = OnnxFacts(), []
    for number, _, value in read_fields(memoryview(raw)):
        if number == 7:
            graphs.append(as_message(value))
        elif number == 14:
            key, text = _entry(as_message(value))
            if key in facts.metadata:
                facts.oddities.append(f"the metadata {key!r} is there twice")
            facts.metadata[key] = text
        elif number == 20:
            facts.oddities.append("it holds training graphs")
        elif number == 25:
            facts.oddities.append("it defines functions")
    if not graphs:
        raise WireError("it has no graph")
    _read_graph(merged(graphs), facts, depth=0)
    return facts


def _read_graph(data: Message, facts: OnnxFacts, *, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise WireError(f"graphs within graphs, more than {MAX_DEPTH} deep")
    for number, _, value in read_fields(data):
        if number == 1:
            _read_node(bytes(as_message(value)), facts, depth)  # as bytes: indices of views are slow
        elif number == 5:
            tensor = _read_tensor(as_message(value))
            facts.tensors.append(tensor)
            if depth == 0:
                _add(facts, facts.initializers, tensor.name, tensor)
        elif number == 15:
            facts.tensors += _read_sparse(as_message(value))
        elif depth == 0 and number in (11, 12):
            name, found = _read_value(as_message(value))
            _add(facts, facts.inputs if number == 11 else facts.outputs, name, found)


def _add(facts: OnnxFacts, known: dict[str, Any], name: str, value: Any) -> None:
    if name in known:
        facts.oddities.append(f"the name {name!r} is there twice")
    known[name] = value


def _read_node(data: Message, facts: OnnxFacts, depth: int) -> None:
    domain = op_type = ""
    inputs, outputs = [], []
    for number, _, value in read_fields(data):
        if number == 1:
            inputs.append(as_text(value))
        elif number == 2:
            outputs.append(as_text(value))
        elif number == 4:
            op_type = as_text(value)
        elif number == 5:
            _read_attribute(as_message(value), facts, depth)
        elif number == 7:
            domain = as_text(value)
    facts.nodes.append(NodeFacts(domain, op_type, tuple(inputs), tuple(outputs)))


def _read_attribute(data: Message, facts: OnnxFacts, depth: int) -> None:
    """Fields 5, 6 and 22 hold one value, 10, 11 and 23 lists of them: tensors, graphs, sparse tensors."""
    once: dict[int, list[Message]] = {}
    many: list[tuple[int, Message]] = []
    for number, _, value in read_fields(data):
        if number in (5, 6, 22):
            once.setdefault(number, []).append(as_message(value))
        elif number in (10, 11, 23):
            many.append((number, as_message(value)))
    for number, part in [*((n, merged(parts)) for n, parts in once.items()), *many]:
        if number in (5, 10):
            facts.tensors.append(_read_tensor(part))
        elif number in (6, 11):
            _read_graph(part, facts, depth=depth + 1)
        else:
            facts.tensors += _read_sparse(part)


def _read_sparse(data: Message) -> Iterator[TensorFacts]:
    parts: dict[int, list[Message]] = {}
    for number, _, value in read_fields(data):
        if number in (1, 2):
            parts.setdefault(number, []).append(as_message(value))
    for found in parts.values():
        yield _read_tensor(merged(found))


def _read_tensor(data: Message) -> TensorFacts:
    name, data_type, location = "", 0, 0
    dims: list[int] = []
    external = []
    for number, kind, value in read_fields(data):
        if number == 1:
            dims += as_numbers(kind, value)
        elif number == 2:
            data_type = as_number(value)
        elif number == 8:
            name = as_text(value)
        elif number == 13:
            external.append(_entry(as_message(value)))
        elif number == 14:
            location = as_number(value)
            if location not in (0, 1):
                raise WireError(f"the tensor {name!r} has data_location {location}")
    return TensorFacts(name=name, dims=tuple(dims), data_type=data_type, location=location, external=tuple(external))


def _entry(data: Message) -> tuple[str, str]:
    """A StringStringEntryProto."""
    key = text = ""
    for number, _, value in read_fields(data):
        if number == 1:
            key = as_text(value)
        elif number == 2:
            text = as_text(value)
    return key, text


def _read_value(data: Message) -> tuple[str, ValueFacts]:
    """The name and facts in a ValueInfoProto; types other than tensors are ignored."""
    name, types = "", []
    for number, _, value in read_fields(data):
        if number == 1:
            name = as_text(value)
        elif number == 2:
            types.append(as_message(value))
    tensors = [as_message(value) for number, _, value in read_fields(merged(types or [b""])) if number == 1]
    data_type, shapes = 0, []
    for number, _, value in read_fields(merged(tensors or [b""])):
        if number == 1:
            data_type = as_number(value)
        elif number == 2:
            shapes.append(as_message(value))
    dims = tuple(_dimension(as_message(v)) for n, _, v in read_fields(merged(shapes)) if n == 1) if shapes else None
    return name, ValueFacts(data_type, dims)


def _dimension(data: Message) -> int | str:
    found: int | str = ""
    for number, _, value in read_fields(data):
        if number == 1:
            found = as_number(value)
        elif number == 2:
            found = as_text(value)
    return found
