"""Finds the records of a JSON array without parsing them, so that a bad one does not cost those behind it."""

import json
import re
from collections.abc import Iterator

from rmruntime.errors import RecordError

Span = tuple[int, int]
# Texts are passed over as a whole, or to the end where one is not closed; brackets in them do not count.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z|\\\Z)|[][{},]', re.DOTALL)
_OPEN, _CLOSE = b"[{", b"]}"
BOM = b"\xef\xbb\xbf"


def is_array(data: bytes, *, json_file: bool) -> bool:
    """Whether the content of a file is an array of records, and not records one a line.

    `json_file` says that the file's name does: one whose array is cut off is then still taken for one.
    """
    text = data.removeprefix(BOM).strip()
    if not text.startswith(b"[") or not (json_file or text.endswith(b"]")):
        return False
    first, _, rest = text.partition(b"\n")
    return not rest or not _is_json(first)  # a line that is JSON, with others behind it, is a bad record


def array_spans(data: bytes) -> Iterator[Span | RecordError]:
    """Where each item begins and ends, and an error for what is wrong with the array itself."""
    start = data.index(b"[") + 1
    depth, end = 1, len(data)
    empty = True
    for token in _TOKEN.finditer(data, start):
        sign = token.group()[:1]
        if sign in _OPEN:
            depth += 1
        elif sign in _CLOSE:
            depth -= 1
        if depth == 0 or (depth == 1 and sign == b","):
            if depth or not empty or data[start : token.start()].strip():
                yield start, token.start()
            start, empty = token.end(), False
        if depth == 0:
            end = token.end()
            break
    if depth:
        if data[start:].strip():
            yield start, len(data)
        yield RecordError("found the end of the file, expected the array to be closed by ]; is the file cut off?")
    elif rest := data[end:].strip():
        yield RecordError(f"found {rest[:20]!r} behind the array, expected nothing; its items were read")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
