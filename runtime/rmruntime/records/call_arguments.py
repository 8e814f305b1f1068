"""Records and texts as Python callers pass them: what is checked before anything is scored."""

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from rmruntime.errors import InputError, RecordError
from rmruntime.records.requests import Request, parse_record


def check_records(records: object) -> Iterable[Any]:
    """The records of a call. Raises RecordError for one record, or a text, in place of several.

    >>> check_records([{"text": "Hello"}])
    [{'text': 'Hello'}]
    """
    if isinstance(records, Iterable) and not isinstance(records, (str, bytes, Mapping)):
        return records
    raise RecordError(
        f"records: found {type(records).__name__}, expected a list of records; put a lone one into a list"
    )


def check_texts(name: str, texts: object) -> list[Any]:
    """The texts of an argument in their order. Raises RecordError for a lone text, and for what has no order.

    >>> check_texts("responses", ("yes", "no"))
    ['yes', 'no']
    """
    if isinstance(texts, Iterable) and not isinstance(texts, (str, bytes, bytearray, Mapping, Set)):
        return list(texts)
    raise RecordError(f"{name}: found {type(texts).__name__}, expected a list of strings: put a lone one into one")


def parse_records(records: Iterable[Mapping[str, Any]]) -> list[Request]:
    """All records, parsed. Raises RecordError for the first that is none, with its index.

    >>> [request.kind for request in parse_records([{"text": "Hello"}])]
    ['single']
    """
    return [_parsed(index, record) for index, record in enumerate(records)]


def _parsed(index: int, record: Mapping[str, Any]) -> Request:
    try:
        return parse_record(record)
    except InputError as error:
        raise type(error)(f"record {index}: {error}") from error


def numbered_requests(records: Iterable[Mapping[str, Any] | Request]) -> Iterator[tuple[int, Request | InputError]]:
    """Records with their index, parsed as they are drawn; the error of one that is none takes its place.

    >>> [(index, type(request).__name__) for index, request in numbered_requests([{"text": "Hello"}, {"txt": ""}])]
    [(0, 'Request'), (1, 'RecordError')]
    """
    for index, record in enumerate(records):
        request: Request | InputError
        try:
            request = record if isinstance(record, Request) else parse_record(record)
        except InputError as error:
            request = error
        yield index, request
