"""The seal of a graph: the manifest's values that decide scores, repeated in the metadata of every graph.

Whoever changes a value of the manifest can also compute its digest anew, and a changed `query_block` or `pad_id` would
change scores without an error. So each graph has the values that it was written with, and a manifest with other values
is refused. Graphs of older versions have no seal.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Protocol

from rmruntime.bundle.manifest import Backbone, Format, Graph, Output, PositionRule, Quantization
from rmruntime.bundle.strict_json import parse_json

SEAL_KEY = "rmexport.scoring"
_OF_THE_MODEL = ("backbone", "dtype", "format", "positions", "outputs", "score", "quantization")
_NOT_OF_THE_GRAPH = ("file", "stages", "past")


class Scoring(Protocol):
    """The values that decide scores. A Manifest has these attributes, and so has the export's specification."""

    @property
    def backbone(self) -> Backbone: ...
    @property
    def dtype(self) -> str: ...
    @property
    def format(self) -> Format: ...
    @property
    def positions(self) -> Mapping[str, PositionRule]: ...
    @property
    def outputs(self) -> tuple[Output, ...]: ...
    @property
    def score(self) -> str | None: ...
    @property
    def quantization(self) -> Quantization | None: ...


def sealed_values(scoring: Scoring, graph: Graph, layers: tuple[int, int] | None) -> dict[str, Any]:
    """The values of a graph's seal, ready for JSON; for a stage, `layers` are its first and last layer.

    Fields with their default value are left out, so that fields which a later version adds make no difference.

    >>> from types import SimpleNamespace
    >>> scoring = SimpleNamespace(**dict.fromkeys(_OF_THE_MODEL))
    >>> sealed_values(scoring, Graph(file="cpu.onnx", dialect="ort-cpu", compute_dtype="fp32"), None)["graph"]
    {'dialect': 'ort-cpu', 'compute_dtype': 'fp32'}
    """
    values = {name: _stated(getattr(scoring, name)) for name in _OF_THE_MODEL}
    values["graph"] = {name: value for name, value in _stated(graph).items() if name not in _NOT_OF_THE_GRAPH}
    values["layers"] = None if layers is None else list(layers)
    if graph.takes_past and graph.past is not None:
        values["past"] = graph.past.features
    return values


def encode_seal(values: Mapping[str, Any]) -> str:
    """The text for the graph's metadata.

    >>> encode_seal({"score": "score", "layers": None})
    '{"layers":null,"score":"score"}'
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def seal_faults(metadata: Mapping[str, str], expected: Mapping[str, Any]) -> list[str]:
    """Differences between the manifest and the values that the graph was written with.

    >>> seal_faults({SEAL_KEY: '{"dtype":"bf16"}'}, {"dtype": "fp32"})
    ['it was written with dtype "bf16", the manifest says "fp32"']
    """
    if SEAL_KEY not in metadata:
        return []
    try:
        found = parse_json(metadata[SEAL_KEY].encode())
    except ValueError as error:
        return [f"its {SEAL_KEY} is not JSON ({error})"]
    return [
        f"it was written with {name} {_shown(ours)}, the manifest says {_shown(theirs)}"
        for name, ours, theirs in _differences("", found, expected)
    ]


def _stated(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        held = ((f, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {f.name: _stated(own) for f, own in held if own != _default(f)}
    if isinstance(value, Mapping):
        return {name: _stated(own) for name, own in value.items()}
    return [_stated(own) for own in value] if isinstance(value, tuple) else value


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _differences(name: str, ours: Any, theirs: Any) -> list[tuple[str, Any, Any]]:
    if not (isinstance(ours, dict) and isinstance(theirs, dict)):
        return [] if ours == theirs and type(ours) is type(theirs) else [(name, ours, theirs)]
    found = []
    for key in sorted({*ours, *theirs}):
        path = f"{name}.{key}" if name else key
        found += _differences(path, ours.get(key), theirs.get(key))
    return found


def _shown(value: Any) -> str:
    text = "its default" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}..."
