"""Rewrites a checkpoint's config.json, into the spelling of published ones for instance."""

import json
from collections.abc import Iterable
from typing import Any

from tiny_checkpoints import TinyCheckpoint


def rewrite_config(checkpoint: TinyCheckpoint, fields: dict[str, Any], *, without: Iterable[str] = ()) -> None:
    """Drop some fields, which must be there, and set others."""
    path = checkpoint.folder / "config.json"
    raw = json.loads(path.read_text())
    for name in without:
        del raw[name]
    path.write_text(json.dumps(raw | fields))
