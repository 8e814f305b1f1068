"""Downloads the files of a Hub repository that an export needs; imported only for checkpoints that are not local."""

import re
from pathlib import Path

import huggingface_hub

from rmexport.checkpoint.cross_encoder_files import module_folders
from rmexport.errors import CheckpointError

_TEXTS = ("*.json", "*.jinja", "*.model", "*.tiktoken", "vocab.txt", "merges.txt")
_SAFETENSORS = ("*.safetensors",)
_TORCH = ("pytorch_model*.bin", "adapter_model.bin")
_SIDE_FILES = ("value_head.bin", "regression_layer.pt", "gating_layer.pt")  # heads beside weights of either format
_MODULE_FILES = ("config.json", "model.safetensors")  # of Sentence Transformers' modules, each in its own folder
_PARTIAL = ("adapter_model", "value_head")  # safetensors beside which the rest may be .bin, as TRL's value head is


def download(repo: str, revision: str | None) -> Path:
    """The snapshot folder of a repository: configuration, tokenizer, weights as safetensors or else as .bin, and heads.

    Files in the Hub's cache are not downloaded again. Raises CheckpointError when a file cannot be downloaded.
    """
    folder = _snapshot(repo, revision, _TEXTS + _SIDE_FILES + _SAFETENSORS)
    if modules := module_folders(folder):
        files = tuple(f"{module}/{name}" for module in modules for name in _MODULE_FILES)
        _snapshot(repo, folder.name if _is_commit(folder.name) else revision, files, ignored=())
    if any(not file.name.startswith(_PARTIAL) for file in folder.glob("*.safetensors")):
        return folder
    # A branch may move between two downloads, so both use the same commit.
    commit = folder.name if _is_commit(folder.name) else revision
    return _snapshot(repo, commit, _TEXTS + _SIDE_FILES + _TORCH)


def _is_commit(name: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{40}", name) is not None


def _snapshot(repo: str, revision: str | None, patterns: tuple[str, ...], ignored: tuple[str, ...] = ("*/*",)) -> Path:
    # Most sub-folders hold other models: training states, other formats.
    try:
        folder = huggingface_hub.snapshot_download(
            repo,
            revision=revision,
            allow_patterns=list(patterns),
            ignore_patterns=list(ignored),
        )
    except Exception as error:  # the client's error tree differs between its versions; each means "not available"
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"there is no local folder {repo}, and {repo}{at} cannot be downloaded ({_first_line(error)}). "
            "Check the name and the network, log in with `hf auth login` if it is gated, or give a local folder"
        ) from error
    return Path(folder)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
