"""Finds the records of a JSON array without parsing them, so that a bad one does not cost those after it."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from rmruntime.errors import RecordError

# Texts are passed over as a whole, or to the end where one is not closed; brackets in them do not count.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z|\\\Z)|[][{},]', re.DOTALL)
_OPEN, _CLOSE = b"[{", b"]}"
BOM = b"\xef\xbb\xbf"


def is_array(data: bytes, *, json_file: bool) -> bool:
    """Whether the content of a file is an array of records, and not one record per line.

    `json_file` is true for a file named *.json: its content counts as an array even where the closing ] is missing.

    >>> is_array(b'[{"text": "a"}]', json_file=False)
    True
    """
    text = data.removeprefix(BOM).strip()
    if not text.startswith(b"[") or not (json_file or text.endswith(b"]")):
        return False
    first, _, rest = text.partition(b"\n")
    return not rest or not _is_json(first)  # a line that is JSON, with others after it, is a bad record


class Item(NamedTuple):
    """The bytes [start, end) of one item; or, with `error`, of the place where the array itself is broken."""

    start: int
    end: int
    error: RecordError | None = None


def first_item(data: bytes) -> int:
    """Where the items of an array begin.

    >>> first_item(b' [{"text": "a"}]')
    2
    """
    return data.index(b"[") + 1


def array_items(data: bytes, start: int) -> Iterator[Item]:
    """The items from the byte `start` on, where one begins; a last one with `error` where the array itself is broken.

    >>> data = b'[{"id": 1},{"id": 2}]'
    >>> [data[item.start : item.end] for item in array_items(data, first_item(data))]
    [b'{"id": 1}', b'{"id": 2}']
    """
    depth = 1
    for token in _TOKEN.finditer(data, start):
        sign = token.group()[:1]
        depth += (sign in _OPEN) - (sign in _CLOSE)
        if depth == 0 or (depth == 1 and sign == b","):
            if depth or data[start : token.start()].strip():  # a trailing comma is followed by no item
                yield Item(start, token.start())
            start = token.end()
        if depth == 0:
            if rest := data[token.end() :].strip():
                message = f"found {rest[:20]!r} after the array, expected nothing; its items were read"
                yield Item(token.start(), len(data), RecordError(message))
            return
    if data[start:].strip():
        yield Item(start, len(data))
        start = len(data)
    message = "found the end of the file, expected the array to be closed by ]; is the file cut off?"
    yield Item(start, len(data), RecordError(message))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
