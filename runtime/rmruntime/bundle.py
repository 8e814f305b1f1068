"""Opens a bundle: the manifest plus proof that the files it names are there, whole and unchanged."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from rmruntime.errors import BundleError
from rmruntime.manifest import MANIFEST_NAME, FileRecord, Manifest, decode_manifest
from rmruntime.safetensors_header import HeaderError, read_header

TOKENIZER_NAME = "tokenizer.json"
_MANIFEST_LIMIT = 64 << 20  # bytes; a real one has a few dozen KB
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A checked bundle."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: str | Path, *, check: Literal["fast", "full"] = "fast") -> "Bundle":
        """Read and check the bundle in `folder`.

        "fast" checks the manifest, that every file is there with its size, the content of the small files (graphs,
        tokenizer, template), the headers of the weights, and that hard-linked weights were not rewritten since.
        "full" also reads all weights and compares their sha256.
        Raises BundleError, naming every damaged file.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        _refuse(folder, _reference_faults(manifest) + _name_faults(manifest))
        _refuse(folder, [fault for record in manifest.files for fault in _fast_faults(folder, record)])
        if check == "full":
            _check_weights(folder, [record for record in manifest.files if record.role == "weights"])
        return cls(folder, manifest)

    def path(self, name: str) -> Path:
        """Where the bundle's file `name` lies."""
        return self.folder / name


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > _MANIFEST_LIMIT:
            raise BundleError(f"{path} has {path.stat().st_size} bytes, more than a manifest can have")
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST_NAME}; make one with `rmexport export`"
        ) from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    try:
        manifest = decode_manifest(raw)
        # The digest is taken over the values; this also catches changes that leave them alone.
        same = raw == (json.dumps(json.loads(raw), indent=1, ensure_ascii=False) + "\n").encode()
    except (RecursionError, UnicodeError) as error:
        raise BundleError(f"{path} is not a manifest ({type(error).__name__}); export the bundle again") from error
    if not same:
        raise BundleError(f"{path} is not as it was written: it was edited after export; export the bundle again")
    return manifest


def _reference_faults(manifest: Manifest) -> list[str]:
    """Files the manifest uses without listing them, and listed files that nothing could vouch for."""
    listed = {record.name: record for record in manifest.files}
    stages = [stage.file for graph in manifest.graphs for stage in graph.stages]
    used = {TOKENIZER_NAME: "tokenizer"} | dict.fromkeys([*(g.file for g in manifest.graphs), *stages], "graph")
    if manifest.format.template is not None:
        used[manifest.format.template] = "template"
    faults = [
        f"{name} is the {role} and the manifest does not list it" for name, role in used.items() if name not in listed
    ]
    faults += [
        f"{name} is the {role} and the manifest lists it as {listed[name].role}"
        for name, role in used.items()
        if name in listed and listed[name].role != role
    ]
    faults += [
        f"{record.name} has no sha256 in the manifest"
        for record in manifest.files
        if record.role != "weights" and record.sha256 is None
    ]
    return faults


def _name_faults(manifest: Manifest) -> list[str]:
    names = [record.name for record in manifest.files]
    faults = [f"{name} is listed twice" for name in sorted({name for name in names if names.count(name) > 1})]
    return faults + [f"{name!r} is not a plain name inside the bundle" for name in names if not _is_inside(name)]


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and not set("\\\0") & set(name)


def _fast_faults(folder: Path, record: FileRecord) -> list[str]:
    path = folder / record.name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        return [f"{record.name} is a symbolic link that leaves the bundle"]
    try:
        found = path.stat()
        if not path.is_file():
            return [f"{record.name} is not a file"]
        if found.st_size != record.size:
            return [f"{record.name} has {found.st_size} bytes, expected {record.size}"]
        if record.role != "weights":
            return _hash_faults(path, record)
        return _weights_faults(path, record, found.st_mtime_ns)
    except FileNotFoundError:
        return [f"{record.name} is missing"]
    except OSError as error:
        return [f"{record.name} cannot be read: {error.strerror}"]


def _weights_faults(path: Path, record: FileRecord, mtime_ns: int) -> list[str]:
    if record.mtime_ns is not None and mtime_ns != record.mtime_ns:
        return [f"{record.name} is a hard link into the checkpoint, which was rewritten after the export"]
    try:
        read_header(path)
    except HeaderError as error:
        return [f"weights {error}"]
    return []


def _check_weights(folder: Path, records: list[FileRecord]) -> None:
    if unknown := [record.name for record in records if record.sha256 is None]:
        raise BundleError(
            f"{folder}: the content of {', '.join(unknown)} cannot be checked, because no byte of it was read when the "
            "bundle was made (linked or reflinked weights); export again with --hash, or use --check fast"
        )
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = pool.map(lambda record: _hash_faults(folder / record.name, record), records)
        _refuse(folder, [fault for faults in found for fault in faults])


def _hash_faults(path: Path, record: FileRecord) -> list[str]:
    try:
        found = file_sha256(path)
    except OSError as error:
        return [f"{record.name} cannot be read: {error.strerror}"]
    return [] if found == record.sha256 else [f"{record.name} has another content than when it was exported"]


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, as hexadecimal digits. Raises OSError."""
    total, block = hashlib.sha256(), bytearray(_BLOCK)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            total.update(memoryview(block)[:count])
    return total.hexdigest()


def _refuse(folder: Path, faults: list[str]) -> None:
    if faults:
        raise BundleError(f"the bundle {folder} is damaged: {'; '.join(faults)}. Copy or export it again")
