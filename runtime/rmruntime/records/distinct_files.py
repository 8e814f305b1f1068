"""Refuses an output that is the input: it would be replaced, or grow while it is read."""

import os
import stat
import sys
from pathlib import Path
from typing import TextIO

from rmruntime.errors import OptionError

_STREAMS = (None, "-")


def check_distinct(source: str | Path, target: str | Path | None) -> None:
    """Raises OptionError where `source` and `target` are one file: by links, other paths or redirected streams.

    None and "-" stand for standard input (`source`) and standard output (`target`).

    >>> check_distinct("records.jsonl", "scores.jsonl")
    """
    found, wanted = _state(source, sys.stdin), _state(target, sys.stdout)
    if found is not None and wanted is not None and os.path.samestat(found, wanted):
        raise OptionError(
            f"output: found the input itself ({_shown(target)}), expected another file; choose one with -o"
        )


def _state(path: str | Path | None, stream: TextIO | None) -> os.stat_result | None:
    """The stat of a regular file; None for anything else, such as a terminal or /dev/null, and for a missing file."""
    try:
        if path is not None and path not in _STREAMS:
            found = os.stat(path)
        elif stream is not None:
            found = os.fstat(stream.fileno())
        else:
            return None
    except (OSError, ValueError):  # a stream may be closed, or have no file descriptor
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _shown(path: str | Path | None) -> str:
    return "standard output" if path in _STREAMS else str(path)
