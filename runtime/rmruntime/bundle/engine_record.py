"""The record of a compiled engine: `engines/<target>/<name>/engine.json`, written by `compile`, read by backends.

An engine works with one content of the bundle, one version of its library and one kind of GPU; the record names all
three, so that an engine that cannot work is refused before it is loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from rmruntime.bundle.bundle import MANIFEST_LIMIT, file_sha256
from rmruntime.bundle.manifest import MANIFEST_NAME, Bytes, Dtype, GraphName, Sha256, canonical
from rmruntime.bundle.regular_files import read_regular
from rmruntime.bundle.strict_json import Between, decode_dataclass, parse_json
from rmruntime.errors import BundleError

ENGINES_FOLDER = "engines"
RECORD_NAME = "engine.json"
ENGINE_NAME = "model.engine"
RECORD_VERSION = 1


Size = Annotated[int, Between(0, (1 << 31) - 1)]


@dataclass(frozen=True, kw_only=True)
class Extent:
    """The sizes that one dimension of the inputs may have: the least, the one the engine is tuned for, the most."""

    least: Size
    tuned: Size
    most: Size


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One set of input sizes that an engine takes: `dimensions` maps a dimension's name in the graph to its sizes.

    >>> profile = Profile(name="short", dimensions={"tokens": Extent(least=1, tuned=1024, most=4096)})
    >>> profile.dimensions["tokens"].most
    4096
    """

    name: str
    dimensions: Mapping[str, Extent]


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """A compiled engine: `library` (its import name) of `version` compiled the file `graph` of a bundle.

    `manifest` is the sha256 of the bundle's manifest.json. The engine runs on `gpu` (its name, or the kind of GPU that
    it was built for without one) of `compute_capability` ("9.0"; "8.6, 8.9" where it runs on several). `size`, in
    bytes, and `sha256` are those of the engine's file; `batch_tokens` is the most tokens that a pass may compute.
    """

    record_version: int
    created_by: str
    target: str
    library: str
    version: str
    gpu: str
    compute_capability: str
    manifest: Sha256
    graph: GraphName
    compute_dtype: Dtype
    batch_tokens: Annotated[int, Between(1, 1 << 28)]
    profiles: tuple[Profile, ...]
    size: Bytes
    sha256: Sha256


def manifest_digest(bundle: Path) -> str:
    """sha256 of the manifest's file in the folder `bundle`, which identifies what an engine was compiled from.

    Of the file, not of its values: a later release with more fields would compute another digest of these. Raises
    OSError.

    >>> _ = Path(MANIFEST_NAME).write_bytes(b"{}")
    >>> manifest_digest(Path())[:16]
    '44136fa355b3678a'
    """
    return file_sha256(bundle / MANIFEST_NAME)


def encode_record(record: EngineRecord) -> bytes:
    """The bytes of `engine.json`: the record as JSON, with a digest of its fields.

    >>> gpu = {"gpu": "NVIDIA L4", "compute_capability": "8.9", "compute_dtype": "fp16", "batch_tokens": 4096}
    >>> library = {"record_version": 1, "created_by": "me", "target": "rtx", "library": "tensorrt_rtx", "version": "1"}
    >>> file = {"manifest": "0" * 64, "graph": "graph.onnx", "profiles": (), "size": 0, "sha256": "0" * 64}
    >>> json.loads(encode_record(EngineRecord(**gpu, **library, **file)))["gpu"]
    'NVIDIA L4'
    """
    data: dict[str, Any] = json.loads(json.dumps(asdict(record)))
    return (json.dumps({**data, "digest": hashlib.sha256(canonical(data)).hexdigest()}, indent=1) + "\n").encode()


def read_record(path: Path) -> EngineRecord:
    """Parse `engine.json`. Raises BundleError for anything but an unchanged record of this version or an older one.

    >>> read_record(Path("engine.json"))
    Traceback (most recent call last):
    rmruntime.errors.BundleError: engine.json cannot be read (...); compile it again with `rmexport compile`
    """
    again = "compile it again with `rmexport compile`"
    try:
        data = parse_json(read_regular(path, MANIFEST_LIMIT))
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}); {again}") from error
    if not isinstance(data, dict) or not isinstance(data.get("record_version"), int):
        raise BundleError(f"{path} is not the record of a compiled engine, expected a record_version; {again}")
    if data["record_version"] > RECORD_VERSION:
        raise BundleError(
            f"{path} has record_version {data['record_version']}, this rmruntime reads up to {RECORD_VERSION}: "
            f"upgrade rmruntime, or {again}"
        )
    stated = data.pop("digest", None)
    if stated != hashlib.sha256(canonical(data)).hexdigest():
        raise BundleError(f"{path} does not match its own digest: it was changed after it was compiled; {again}")
    return decode_dataclass(EngineRecord, data, where=str(path))


def engine_folders(bundle: Path, target: str) -> tuple[Path, ...]:
    """The folders of a bundle's engines for `target`, sorted by name; without those that are still being written.

    >>> record = Path("engines/tensorrt/default") / RECORD_NAME
    >>> record.parent.mkdir(parents=True)
    >>> record.touch()
    >>> [folder.name for folder in engine_folders(Path(), "tensorrt")]
    ['default']
    """
    return tuple(folder for folder in compiled_engines(bundle) if folder.parent.name == target)


def compiled_engines(bundle: Path) -> tuple[Path, ...]:
    """The folders of all of a bundle's engines, sorted by target and name; without those still being written.

    >>> compiled_engines(Path("no-bundle"))
    ()
    """
    return tuple(path.parent for path in sorted((bundle / ENGINES_FOLDER).glob(f"*/[!.]*/{RECORD_NAME}")))
