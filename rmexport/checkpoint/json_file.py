"""Reads the JSON files of a checkpoint."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from rmexport.errors import CheckpointError

MAX_BYTES = 64 << 20  # the index of a hundred thousand tensors has 10 MB


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises CheckpointError when it cannot be read, is larger than any such file, holds anything else, or has a key twice
    (of which one would win silently).
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise CheckpointError(f"{path} has more than {MAX_BYTES} bytes; restore the original")
            data = json.loads(file.read(), object_pairs_hook=_unique)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); restore it from the original checkpoint") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"it has the key {name!r:.100} twice")
    return data
