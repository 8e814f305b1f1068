"""What Python callers pass: lone values in place of lists are errors that say so, bad records have their index."""

from collections.abc import Iterable

import pytest

from rmruntime import InputError, RecordError
from rmruntime.records import parse_record
from rmruntime.records.call_arguments import check_records, check_texts, numbered_requests, parse_records

GOOD, BAD = {"text": "Hello"}, {"txt": "Hello"}


@pytest.mark.parametrize("lone", [GOOD, "Hello", b"Hello", 5, None])
def test_a_lone_record_is_refused(lone: object) -> None:
    with pytest.raises(RecordError, match=f"records: found {type(lone).__name__}, expected a list of records"):
        check_records(lone)


@pytest.mark.parametrize("records", [[GOOD], (GOOD,), iter([GOOD])])
def test_several_records_are_taken_as_they_come(records: Iterable[object]) -> None:
    assert check_records(records) is records


@pytest.mark.parametrize("texts", ["yes", b"yes", {"yes": 1}, {"yes"}, frozenset(("yes",)), 5])
def test_what_has_no_order_is_no_list_of_texts(texts: object) -> None:
    with pytest.raises(RecordError, match=f"responses: found {type(texts).__name__}, expected a list of strings"):
        check_texts("responses", texts)


def test_texts_keep_their_order() -> None:
    assert check_texts("steps", (text for text in ("b", "a"))) == ["b", "a"]


def test_the_first_bad_record_is_named_by_its_index() -> None:
    with pytest.raises(RecordError, match=r"^record 1: "):
        parse_records([GOOD, BAD, BAD])


def test_numbered_requests_are_drawn_one_by_one_with_errors_in_their_place() -> None:
    request = parse_record(GOOD)
    drawn = numbered_requests(iter([GOOD, BAD, request]))
    assert next(drawn) == (0, request)
    index, error = next(drawn)
    assert index == 1 and isinstance(error, InputError)
    assert list(drawn) == [(2, request)]
