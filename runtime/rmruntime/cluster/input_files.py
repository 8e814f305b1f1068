"""The files that INPUT names on a cluster: one, those of a folder, or those that match a pattern, in their order."""

import glob
from pathlib import Path

from rmruntime.errors import RewardModelError
from rmruntime.records.reader import LINE_SUFFIXES

SUFFIXES = (*LINE_SUFFIXES, ".parquet")
_PATTERN = frozenset("*?[")


def input_files(source: str) -> tuple[Path, ...]:
    """The absolute paths of the files that `source` names, sorted by name.

    Raises RewardModelError where there is none, or one that is not a file of records.

    >>> for name in ("b.jsonl", "a.jsonl", "notes.txt"):
    ...     Path(name).touch()
    >>> [path.name for path in input_files(".")]
    ['a.jsonl', 'b.jsonl']
    """
    if source == "-":
        raise RewardModelError("input: found standard input, expected files: workers cannot read it; save it first")
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if _is_input(p))
        expected = f"the folder has no {', '.join(s for s in SUFFIXES if s)} file"
    elif not path.exists() and _PATTERN & set(source):
        found = sorted(Path(name) for name in glob.glob(source) if Path(name).is_file())
        expected = "no file matches"
    else:
        found, expected = [path] if path.is_file() else [], "there is no such file or folder"
    if not found:
        raise RewardModelError(f"{source}: {expected}; expected a file, a folder of files, or a pattern")
    for file in found:
        if file.suffix not in SUFFIXES:
            raise RewardModelError(
                f"{file}: found the ending {file.suffix}, expected .jsonl, .json or .parquet; rename or convert it"
            )
    return tuple(file.resolve() for file in found)


def _is_input(path: Path) -> bool:
    return path.is_file() and path.name[0] not in "._" and path.suffix != "" and path.suffix in SUFFIXES
