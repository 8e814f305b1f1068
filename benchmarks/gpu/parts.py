"""Folders as compressed parts of bounded size, for a machine to which little can be copied at a time.

A set of parts is NAME.000, NAME.001 and so on, and a list of all sets with their hashes is LIST beside them.
"""

import hashlib
import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

LIST = "parts.json"
PRESET = 6  # of xz: higher ones take much more memory for a percent


class PartsMissing(Exception):
    """Parts of a set have not come yet, or are damaged; the message names them."""


def pack(folder: Path, name: str, out: Path, most: int) -> list[Path]:
    """A folder's content as parts of at most `most` bytes in `out`, which replace those of an earlier call."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, str(path.relative_to(folder)))
    packed = lzma.compress(raw.getvalue(), preset=PRESET)
    for old in out.glob(f"{name}.[0-9]*"):
        old.unlink()
    paths = []
    for number, begin in enumerate(range(0, len(packed), most)):
        paths.append(out / f"{name}.{number:03}")
        paths[-1].write_bytes(packed[begin : begin + most])
    _note(out, {path.name: _sha256(path) for path in paths}, name)
    return paths


def store(paths: list[Path], work: Path) -> list[str]:
    """Copy parts, and the list, to where they stay; returns the names of those that are there now."""
    work.mkdir(parents=True, exist_ok=True)
    for path in paths:
        partial = work / f"{path.name}.partial"
        shutil.copyfile(path, partial)
        partial.rename(work / path.name)
    return sorted(path.name for path in work.iterdir())


def unpack(name: str, work: Path, folder: Path) -> None:
    """The set `name` from its parts in `work` into `folder`. Raises PartsMissing."""
    wanted = _listed(work).get(name)
    if wanted is None:
        raise PartsMissing(f"{work / LIST} has no set {name!r}; store the list with the first part")
    missing = [part for part in wanted if not (work / part).exists()]
    damaged = [part for part in wanted if part not in missing and _sha256(work / part) != wanted[part]]
    if missing or damaged:
        raise PartsMissing(f"missing: {', '.join(missing) or 'none'}; damaged: {', '.join(damaged) or 'none'}")
    packed = b"".join((work / part).read_bytes() for part in sorted(wanted))
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(packed))) as archive:
        archive.extractall(folder, filter="data")


def _note(out: Path, hashes: Mapping[str, str], name: str) -> None:
    listed = _listed(out) | {name: dict(hashes)}
    (out / LIST).write_text(json.dumps(listed, indent=1) + "\n")


def _listed(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / LIST
    found: dict[str, dict[str, str]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
