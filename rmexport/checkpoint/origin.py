"""Finds a checkpoint: a local folder, or a repository of the Hugging Face Hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from rmexport.errors import CheckpointError, OptionError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_REPOSITORY = "models--"  # how the Hub's cache names the folder of a repository
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Origin:
    """A checkpoint's folder, and its Hub repository and commit where they are known."""

    folder: Path
    repo: str | None
    revision: str | None


def locate(path_or_repo: str, revision: str | None) -> Origin:
    """The folder `path_or_repo`, or the Hub repository of that id, downloaded.

    In the Hub's own cache, both a snapshot's folder and a repository's (models--owner--name) may be given. Raises
    CheckpointError when it is nothing of this kind, and OptionError for a revision that a local folder is not.

    >>> locate("no/such/folder", None)
    Traceback (most recent call last):
    rmexport.errors.CheckpointError: 'no/such/folder' is neither a local folder nor a Hub repository id ...
    """
    folder = Path(path_or_repo).expanduser()
    if folder.is_dir():
        return _local_origin(folder, revision)
    if folder.exists():
        raise CheckpointError(f"{folder} is a file; give the folder that holds config.json and the weights")
    if not _HUB_ID.fullmatch(path_or_repo):
        raise CheckpointError(
            f"{path_or_repo!r} is neither a local folder nor a Hub repository id (owner/name); check the path"
        )
    from rmexport.checkpoint import hub  # imports a network client, which a local folder has no use for

    found = hub.download(path_or_repo, revision)
    return Origin(found, path_or_repo, _snapshot_commit(found))


def _local_origin(folder: Path, revision: str | None) -> Origin:
    """The origin of a local folder. One in the Hub's cache has a repository and commit, and may have a revision."""
    real = folder.resolve()
    if _is_repository(real):
        wanted = _resolve(real, revision or "main")
        return Origin(real / "snapshots" / wanted, _repo(real), wanted)
    commit = _snapshot_commit(folder)
    if commit is None:
        if revision is not None:
            raise OptionError(
                f"{folder} is a local folder, --revision {revision} is for Hub repositories: leave it out"
            )
        return Origin(folder, None, None)
    cached = real.parent.parent
    if revision is not None and (wanted := _resolve(cached, revision)) != commit:
        raise OptionError(
            f"{folder} is commit {commit} of {_repo(cached)}, and --revision {revision} is commit {wanted}: give "
            f"{cached / 'snapshots' / wanted}, or leave the revision out"
        )
    return Origin(folder, _repo(cached), commit)


def _snapshot_commit(folder: Path) -> str | None:
    """The commit of a snapshot in the Hub's cache: models--owner--name/snapshots/commit."""
    real = folder.resolve()
    in_cache = real.parent.name == "snapshots" and real.parent.parent.name.startswith(_REPOSITORY)
    return real.name if in_cache and _COMMIT.fullmatch(real.name) else None


def _is_repository(folder: Path) -> bool:
    return folder.name.startswith(_REPOSITORY) and (folder / "snapshots").is_dir()


def _repo(cached: Path) -> str:
    return cached.name.removeprefix(_REPOSITORY).replace("--", "/", 1)


def _resolve(cached: Path, revision: str) -> str:
    """The commit of a branch, tag or commit when it was last downloaded. Raises OptionError when it never was.

    The cache has a file refs/NAME with the commit for every branch and tag that was downloaded.
    """
    refs = {p.relative_to(cached / "refs").as_posix(): p for p in (cached / "refs").rglob("*") if p.is_file()}
    commits = sorted(p.name for p in (cached / "snapshots").iterdir())
    commit = refs[revision].read_text().strip() if revision in refs else revision
    if commit not in commits:
        known = ", ".join([*sorted(refs), *commits]) or "none"
        raise OptionError(
            f"{cached} has no revision {revision}; it has {known}. Give the Hub id {_repo(cached)} instead"
        )
    return commit


def hub_sha256(path: Path) -> str | None:
    """sha256 of a file in the Hub's cache, where large files are named by it; None for any other file.

    >>> hub_sha256(Path("model.safetensors")) is None
    True
    """
    real = path.resolve()
    in_cache = path.is_symlink() and real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return real.name if in_cache and _SHA256.fullmatch(real.name) else None
