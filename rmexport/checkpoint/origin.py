"""Finds a checkpoint: a local folder, or a repository of the Hugging Face Hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from rmexport.errors import CheckpointError, OptionError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Origin:
    """A checkpoint's folder, and the Hub repository and commit where they are known."""

    folder: Path
    repo: str | None
    revision: str | None


def locate(path_or_repo: str, revision: str | None) -> Origin:
    """The folder `path_or_repo`, or the Hub repository of that id, downloaded.

    Raises CheckpointError when it is neither and OptionError for a revision of a local folder.
    """
    folder = Path(path_or_repo).expanduser()
    if folder.is_dir():
        origin = _local_origin(folder)
        if revision not in (None, origin.revision):
            raise OptionError(
                f"{folder} is a local folder, --revision {revision} is for Hub repositories: leave it out"
            )
        return origin
    if folder.exists():
        raise CheckpointError(f"{folder} is a file; give the folder that holds config.json and the weights")
    if not _HUB_ID.fullmatch(path_or_repo):
        raise CheckpointError(
            f"{path_or_repo!r} is neither a local folder nor a Hub repository id (owner/name); check the path"
        )
    from rmexport.checkpoint import hub  # imports a network client, which a local folder has no use for

    return _local_origin(hub.download(path_or_repo, revision), repo=path_or_repo)


def _local_origin(folder: Path, repo: str | None = None) -> Origin:
    """A folder of the Hub's own cache (models--owner--name/snapshots/commit) says where it came from."""
    real = folder.resolve()
    owner = real.parent.parent.name
    if real.parent.name != "snapshots" or not owner.startswith("models--") or not _COMMIT.fullmatch(real.name):
        return Origin(folder, repo, None)
    return Origin(folder, repo or owner.removeprefix("models--").replace("--", "/", 1), real.name)


def hub_sha256(path: Path) -> str | None:
    """sha256 of a file in the Hub's cache, whose large files are named by it; None where that is not known."""
    real = path.resolve()
    in_cache = path.is_symlink() and real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return real.name if in_cache and _SHA256.fullmatch(real.name) else None
