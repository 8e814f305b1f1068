"""Typed reads from a parsed config.json, with errors that name the field."""

from collections.abc import Mapping
from typing import Any

from rmexport.errors import CheckpointError


def integer(raw: Mapping[str, Any], name: str) -> int:
    """A positive integer field; raises CheckpointError when it is absent or anything else."""
    value = optional_integer(raw, name)
    if value is None:
        raise CheckpointError(
            f"config.json lacks {name!r}, a positive integer; restore it from the original checkpoint"
        )
    return value


def optional_integer(raw: Mapping[str, Any], name: str) -> int | None:
    """A positive integer field, or None when it is absent or null."""
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise CheckpointError(f"config.json: {name} is {value!r}, expected a positive integer")
    return value


def number(raw: Mapping[str, Any], name: str, *, default: float) -> float:
    """A numeric field."""
    value = raw.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} is {value!r}, expected a number")
    return float(value)


def flag(raw: Mapping[str, Any], name: str) -> bool:
    """A true/false field, false when absent."""
    value = raw.get(name) or False
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} is {value!r}, expected true or false")
    return value
