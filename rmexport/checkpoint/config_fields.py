"""Reads typed fields from a parsed config.json, each within a plausible range, with errors that name the field.

JSON in Python also has NaN, Infinity and integers of any length. Values that pass can be computed with: no size takes
gigabytes or hours before it turns out that no tensor has it, no factor makes scores of NaN. The ranges include every
published model, most with a margin of a factor of ten or more.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexport.errors import CheckpointError


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included.

    >>> Range(0, 1).holds(1), Range(0, 1).holds(float("nan"))
    (True, False)
    """

    least: float
    most: float

    def holds(self, value: object) -> bool:
        """Whether `value` is a number in the range; NaN never is."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"from {self.least:.10g} to {self.most:.10g}"


SIZE, NUMBER = Range(1, 1 << 24), Range(-1e12, 1e12)  # where nothing narrower is known
LAYERS = Range(1, 1024)
HEADS = Range(1, 1024)
HEAD_SIZE = Range(1, 4096)
FEATURES = Range(1, 1 << 20)
VOCABULARY = Range(1, 1 << 22)
TOKEN_ID = Range(0, 1 << 22)
LENGTH = Range(1, 1 << 24)  # tokens; beyond, positions in fp32 are not exact
EXPERTS = Range(1, 2048)
LABELS = Range(1, 1 << 16)
RANK = Range(1, 1 << 16)
EPSILON = Range(1e-16, 0.1)
ROPE_BASE = Range(2, 1e15)
FACTOR = Range(1e-3, 1e6)
STATISTIC = Range(-1e9, 1e9)
DEVIATION = Range(1e-9, 1e9)


def integer(raw: Mapping[str, Any], name: str, within: Range = SIZE) -> int:
    """An integer field. Raises CheckpointError when it is absent, of another type or out of range.

    >>> integer({"hidden_size": 4096}, "hidden_size")
    4096
    """
    value = optional_integer(raw, name, within)
    if value is None:
        raise CheckpointError(f"config.json lacks {name!r}, {_whole(within)}; restore it from the original checkpoint")
    return value


def optional_integer(raw: Mapping[str, Any], name: str, within: Range = SIZE) -> int | None:
    """An integer field, or None when it is absent or null. Raises CheckpointError as `integer` does.

    >>> optional_integer({"sliding_window": None}, "sliding_window") is None
    True
    """
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or not within.holds(value):
        raise CheckpointError(f"config.json: {name} is {shown(value)}, expected {_whole(within)}; restore the original")
    return value


def number(raw: Mapping[str, Any], name: str, within: Range = NUMBER, *, default: float) -> float:
    """A numeric field, `default` where it is absent. Raises CheckpointError for null and other types.

    >>> number({}, "rms_norm_eps", default=1e-6)
    1e-06
    """
    value = raw.get(name, default)
    if not within.holds(value):
        raise CheckpointError(
            f"config.json: {name} is {shown(value)}, expected a number {within}; restore the original"
        )
    return float(value)


def optional_number(raw: Mapping[str, Any], name: str, within: Range) -> float | None:
    """A numeric field, or None when it is absent or null. Raises CheckpointError for other types.

    >>> optional_number({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping", NUMBER)
    50.0
    """
    return None if raw.get(name) is None else number(raw, name, within, default=0.0)


def flag(raw: Mapping[str, Any], name: str) -> bool:
    """A true/false field, False when it is absent. Raises CheckpointError for other types.

    >>> flag({"tie_word_embeddings": True}, "tie_word_embeddings")
    True
    """
    value = raw.get(name) or False
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {name} is {shown(value)}, expected true or false; restore the original")
    return value


def optional_text(raw: Mapping[str, Any], name: str) -> str | None:
    """A text field, or None when it is absent, null or empty. Raises CheckpointError for other types.

    >>> optional_text({"model_type": "qwen3"}, "model_type")
    'qwen3'
    """
    value = raw.get(name)
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"config.json: {name} is {shown(value)}, expected text; restore the original")
    return value or None


def architectures(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The class names in `architectures`; () where there are none. Raises CheckpointError for anything else.

    >>> architectures({"architectures": ["Qwen3ForSequenceClassification"]})
    ('Qwen3ForSequenceClassification',)
    """
    value = raw.get("architectures")
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(
            f"config.json: architectures is {shown(value)}, expected a list of class names; restore the original"
        )
    return tuple(value)


def section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A field that is an object; {} when it is absent or null. Raises CheckpointError for other types.

    >>> section({"text_config": {"hidden_size": 8}}, "text_config")
    {'hidden_size': 8}
    """
    value = raw.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CheckpointError(
            f"config.json: {name} is {shown(value)}, expected an object or null; restore the original"
        )
    return value


def text_section(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """`text_config` of a checkpoint that also sees. Raises CheckpointError where it has none.

    >>> text_section({"text_config": {"hidden_size": 8}, "vision_config": {}})
    {'hidden_size': 8}
    """
    text = raw.get("text_config")
    if not isinstance(text, dict):
        raise CheckpointError(f"config.json: text_config is {text!r}, expected an object; restore the original")
    return text


def shown(value: object) -> str:
    """A value of config.json for a message, cut at 80 characters.

    >>> shown("text")
    "'text'"
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _whole(within: Range) -> str:
    if within.least == 1:
        return f"a positive integer of at most {within.most:.10g}"
    return f"an integer {within}"


MAX_BYTES = 64 << 20  # the index of a hundred thousand tensors has 10 MB


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises CheckpointError when the file cannot be read, is too large, is not an object, or has a key twice, of which
    one would silently win.

    >>> _ = Path("config.json").write_text('{"model_type": "qwen3"}')
    >>> read_json_object(Path("config.json"))
    {'model_type': 'qwen3'}
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise CheckpointError(f"{path} has more than {MAX_BYTES} bytes; restore the original")
            data = json.loads(file.read(), object_pairs_hook=_unique)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; see to its permissions or disk") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); restore it from the original checkpoint") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a JSON {type(data).__name__}, expected an object; restore the original")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"it has the key {name!r:.100} twice")
    return data
