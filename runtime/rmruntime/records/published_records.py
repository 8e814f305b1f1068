"""Published preference data sets whose columns are named differently, rewritten with the plain keys of records.

Each data set's card says what its columns mean.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from rmruntime.errors import RecordError

Record = Mapping[str, Any]

_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def as_plain(record: Record) -> Record:
    """The record with plain keys; unchanged where it is from none of these data sets.

    Raises RecordError for values that such a data set does not have.

    >>> as_plain({"prompt": "Q", "response_0": "A", "response_1": "B", "better_response_id": 1})
    {'prompt': 'Q', 'chosen': 'B', 'rejected': 'A'}
    """
    for keys, convert in _SHAPES:
        if all(key in record for key in keys):
            return convert(record)
    return record


def python_value(value: Any) -> Any:
    """`value` with numpy arrays as lists and numpy numbers as Python's; pandas has these in the cells of a table.

    >>> import numpy
    >>> python_value(numpy.array([1, 2])), python_value(numpy.float64(0.5)), python_value("text")
    ([1, 2], 0.5, 'text')
    """
    return value.tolist() if hasattr(value, "tolist") else value


def _from_completions(record: Record) -> Record:
    """UltraFeedback: the answers of several models to an instruction."""
    completions = python_value(record["completions"])
    if not isinstance(completions, (list, tuple)) or not all(isinstance(c, Mapping) for c in completions):
        raise RecordError(
            f"completions: found {completions!r:.60}, expected a list of objects that each have a response"
        )
    return {"prompt": record["instruction"], "responses": [c.get("response") for c in completions]}


def _by_strength(prompt: str, first: str, second: str, strength: str) -> Callable[[Record], Record]:
    """HelpSteer: two answers and how much better the second is; below 0 it is the worse one, at 0 neither is."""

    def convert(record: Record) -> Record:
        better = python_value(record[strength])
        missing = isinstance(better, float) and math.isnan(better)  # pandas' missing number
        if isinstance(better, bool) or not isinstance(better, (int, float)) or missing:
            raise RecordError(f"{strength}: found {better!r:.60}, expected a number: below 0 where {first} is better")
        if not better:
            return {"prompt": record[prompt], "responses": [record[first], record[second]]}
        chosen, rejected = (first, second) if better < 0 else (second, first)
        return {"prompt": record[prompt], "chosen": record[chosen], "rejected": record[rejected]}

    return convert


def _by_index(record: Record) -> Record:
    """PKU-SafeRLHF: two answers and the number of the better one."""
    better = python_value(record["better_response_id"])
    if better not in (0, 1) or isinstance(better, (bool, float)):
        raise RecordError(f"better_response_id: found {better!r:.60}, expected 0 or 1")
    chosen, rejected = f"response_{better}", f"response_{1 - better}"
    return {"prompt": record["prompt"], "chosen": record[chosen], "rejected": record[rejected]}


def _by_relevance(relevant: str, irrelevant: str) -> Callable[[Record], Record]:
    """Reranking data: documents that answer a query, and others that do not. A `prompt` beside them is another's."""

    def convert(record: Record) -> Record:
        if record.keys() & {"prompt", "document", "documents"}:
            return record
        return {"prompt": record["query"], "chosen": record[relevant], "rejected": record[irrelevant]}

    return convert


def _from_transcripts(record: Record) -> Record:
    """HH-RLHF: a whole conversation in one text, each turn after "Human:" or "Assistant:"."""
    texts = record["chosen"], record["rejected"]
    if "prompt" in record or not all(isinstance(text, str) and _TURN.match(text) for text in texts):
        return record
    return {"chosen": _turns(texts[0]), "rejected": _turns(texts[1])}


def _turns(text: str) -> list[dict[str, str]]:
    _, *parts = _TURN.split(text)
    return [{"role": _ROLES[name], "content": said.strip()} for name, said in zip(parts[::2], parts[1::2], strict=True)]


_SHAPES: tuple[tuple[tuple[str, ...], Callable[[Record], Record]], ...] = (
    (("chosen", "rejected"), _from_transcripts),
    (("instruction", "completions"), _from_completions),
    (
        ("context", "response1", "response2", "overall_preference"),
        _by_strength("context", "response1", "response2", "overall_preference"),
    ),
    (
        ("prompt", "response_1", "response_2", "preference_strength"),
        _by_strength("prompt", "response_1", "response_2", "preference_strength"),
    ),
    (("prompt", "response_0", "response_1", "better_response_id"), _by_index),
    (("query", "positive", "negative"), _by_relevance("positive", "negative")),
    (("query", "pos", "neg"), _by_relevance("pos", "neg")),
)
PUBLISHED_KEYS = frozenset(key for keys, _ in _SHAPES for key in keys)
