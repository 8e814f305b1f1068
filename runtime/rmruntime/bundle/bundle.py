"""Opens a bundle: reads the manifest, and checks that the files it names are there, whole and unchanged."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rmruntime.bundle.manifest import MANIFEST_NAME, FileRecord, FileRole, Manifest, decode_manifest
from rmruntime.bundle.manifest_check import manifest_faults
from rmruntime.bundle.regular_files import is_inside, open_regular, read_regular
from rmruntime.bundle.safetensors_header import HeaderError, read_header
from rmruntime.errors import BundleError, listing

# The most bytes of files that are read whole. Real ones: dozens of KB, up to 40 MB, dozens of KB, a few MB.
MANIFEST_LIMIT, TOKENIZER_LIMIT, TEMPLATE_LIMIT, GRAPH_LIMIT = 16 << 20, 128 << 20, 1 << 20, 256 << 20
_LIMITS: Mapping[FileRole | None, int] = {"tokenizer": TOKENIZER_LIMIT, "template": TEMPLATE_LIMIT}
_BLOCK = 1 << 20
_LISTED = 100  # faults named in one message


Stamp = tuple[int, int, int, int]  # a file's device, inode, size in bytes and time of last change in ns


@dataclass(frozen=True)
class Bundle:
    """A checked bundle: its folder and manifest. `stamps` identify the weights' files as they were when checked."""

    folder: Path
    manifest: Manifest
    stamps: Mapping[str, Stamp] = field(default_factory=dict)

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
        _refuse(folder, manifest_faults(manifest))
        weights = [record.name for record in manifest.files if record.role == "weights"]
        stamps = {name: stamp for name in weights if (stamp := _stamp(folder / name)) is not None}
        _refuse(folder, [fault for record in manifest.files for fault in _fast_faults(folder, record)])
        if check == "full":
            _check_weights(folder, [record for record in manifest.files if record.role == "weights"])
        return cls(folder, manifest, stamps)

    def check_unchanged(self) -> None:
        """Raises BundleError where weights were rewritten, replaced or removed since the bundle was opened.

        Engines map them into memory and would compute with whatever is written into them. Takes some microseconds.
        """
        changed = [name for name, stamp in self.stamps.items() if _stamp(self.folder / name) != stamp]
        if changed:
            raise BundleError(
                f"the bundle {self.folder} was changed while it was loaded: {', '.join(changed[:_LISTED])} is not the "
                "file that was opened. Load the bundle again; replace bundles as whole folders, never file by file"
            )

    def path(self, name: str) -> Path:
        """The path of the bundle's file `name`."""
        return self.folder / name


def _stamp(path: Path) -> Stamp | None:
    """The file's stamp; None for a missing file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_NAME
    try:
        if not is_inside(path, folder):
            raise BundleError(f"{path} is a symbolic link that leaves the bundle: copy the file itself")
        raw = read_regular(path, MANIFEST_LIMIT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST_NAME}; make one with `rmexport export`"
        ) from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}; see to its permissions or disk") from error
    except ValueError as error:  # half a surrogate pair, or a zero byte
        raise BundleError(f"found {str(folder)!a}, expected the path of a folder ({error})") from error
    manifest = decode_manifest(raw)
    # The digest is taken over the values; this also catches changes that leave the values as they are.
    if raw != (json.dumps(json.loads(raw), indent=1, ensure_ascii=False) + "\n").encode():
        raise BundleError(f"{path} is not as it was written: it was edited after export; export the bundle again")
    return manifest


def _fast_faults(folder: Path, record: FileRecord) -> list[str]:
    path = folder / record.name
    if not is_inside(path, folder):
        return [f"{record.name} is a symbolic link that leaves the bundle"]
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return [f"{record.name} is not a file"]
        if found.st_size != record.size:
            return [f"{record.name} has {found.st_size} bytes, expected {record.size}"]
        if record.role == "weights":
            return _weights_faults(path, record, found.st_mtime_ns)
        if found.st_size > (limit := _LIMITS.get(record.role, GRAPH_LIMIT)):
            return [f"{record.name} has {found.st_size} bytes, more than the {limit} of any {record.role or 'file'}"]
        return _hash_faults(path, record)
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


def file_sha256(path: Path, advance: Callable[[int], object] | None = None) -> str:
    """sha256 of a file's content, as hexadecimal digits; `advance` is told the bytes that were read. Raises OSError.

    >>> _ = Path("three").write_bytes(b"abc")
    >>> file_sha256(Path("three"))[:16]
    'ba7816bf8f01cfea'
    """
    total, block = hashlib.sha256(), bytearray(_BLOCK)
    with open_regular(path) as file:
        while count := file.readinto(block):
            total.update(memoryview(block)[:count])
            if advance is not None:
                advance(count)
    return total.hexdigest()


def _refuse(folder: Path, faults: list[str]) -> None:
    if faults:
        found = listing(faults, _LISTED, separator="; ")
        raise BundleError(f"the bundle {folder} is damaged: {found}. Copy or export it again")
