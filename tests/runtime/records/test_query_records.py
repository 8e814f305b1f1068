"""Records of a query and its documents: a prompt and its responses by other names."""

from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rmruntime.errors import RecordError
from rmruntime.records import Message, Request, parse_record
from rmruntime.records.reader import read_records

QUERY = {"query": "Why?", "documents": ["a", {"id": "d-2", "text": "b", "url": "x"}, "é 東🙂"]}


def turns(request: Request) -> list[list[tuple[str, str]]]:
    return [[(m.role, m.content) for m in conversation.messages or ()] for conversation in request.conversations]


def test_documents_are_answers_to_the_query() -> None:
    request = parse_record({"id": 7, **QUERY})
    assert (request.kind, request.id) == ("documents", 7)
    assert turns(request) == [[("user", "Why?"), ("assistant", text)] for text in ("a", "b", "é 東🙂")]
    assert request.documents == tuple(QUERY["documents"])


def test_the_instruction_is_a_system_turn() -> None:
    request = parse_record({"query": "Why?", "document": "a", "instruction": "Prefer news."})
    assert request.kind == "single"
    assert request.conversations[0].messages == (
        Message("system", "Prefer news."), Message("user", "Why?"), Message("assistant", "a"),
    )  # fmt: skip
    assert turns(parse_record({**QUERY, "instruction": ""})) == turns(parse_record({**QUERY, "instruction": None}))


def test_responses_are_kept_as_documents() -> None:
    assert parse_record({"prompt": "Why?", "responses": ["a", "b"]}).documents == ("a", "b")
    assert parse_record({"prompt": "Why?", "response": "a"}).documents == ()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"query": " ", "documents": ["a"]}, "query: found an empty text"),
        ({"query": ["Why?"], "documents": ["a"]}, r"query: found an? .*expected a string"),
        ({"query": "Why?", "documents": []}, "documents: found an empty list"),
        ({"query": "Why?", "documents": "a"}, "documents: found 'a' .*expected a list of documents"),
        ({"query": "Why?", "documents": ["a", 5]}, r"documents\[1\]: found 5 \(int\), expected a string"),
        ({"query": "Why?", "documents": [{"body": "a"}]}, r"documents\[0\]: found an object without text"),
        ({"query": "Why?", "documents": [{"text": None}]}, r"documents\[0\]\.text: found null"),
        ({"query": "Why?", "documents": ["\ud800"]}, r"documents\[0\]: found half a surrogate pair"),
        ({"query": "Why?", "documents": ["a"], "instruction": 5}, "instruction: found 5"),
        ({"query": "Why?", "documents": ["a"], "document": "a"}, "found the keys query, documents, document"),
        ({"query": "Why?", "documents": ["a"], "prompt": "Why?"}, "found the keys query, documents, prompt"),
        ({"query": "Why?"}, "found the keys query, expected exactly one of the sets"),
        ({"documents": ["a"]}, "found the keys documents, expected exactly one"),
        ({"query": "Why?", "docments": ["a"]}, "unknown key 'docments'; did you mean documents"),
        ({"querry": "Why?", "documents": ["a"]}, "unknown key 'querry'; did you mean query"),
        ({**QUERY, "instructions": "Prefer news."}, "unknown key 'instructions'; did you mean instruction"),
    ],
)
def test_what_is_wrong_is_named(record: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse_record(record)


@pytest.mark.parametrize("column", ["query", "documents", "instructions", "document"])
def test_a_data_sets_column_of_such_a_name_is_ignored(column: str) -> None:
    """As it was before these records: preference data sets have columns of all these names."""
    plain = parse_record({"prompt": "Why?", "response": "a"})
    assert parse_record({"prompt": "Why?", "response": "a", column: "x"}) == plain


def test_an_instruction_beside_a_prompt_is_kept_for_models_that_take_one() -> None:
    plain = {"prompt": "Why?", "response": "a"}
    request = parse_record(plain | {"instruction": "No gore."})
    assert request.instruction == "No gore."
    assert request.conversations == parse_record(plain).conversations
    assert [parse_record(plain | {"instruction": other}).instruction for other in (None, " ", 7)] == [None] * 3
    pair = parse_record({"chosen": "a", "rejected": "b", "prompt": "Why?", "instruction": "No gore."})
    assert pair.instruction == "No gore."
    completions = {"instruction": "Why?", "completions": [{"response": "a"}]}  # the prompt itself
    assert parse_record(completions).instruction is None


def test_a_table_of_queries(tmp_path: Path) -> None:
    """Absent keys and fields are nulls there, and documents may be structs."""
    documents = [[{"id": "a", "text": "x"}, {"id": None, "text": "y"}], [{"id": "c", "text": "z"}]]
    columns = {"query": ["Why?", "How?"], "documents": documents, "instruction": [None, "Be brief."], "rank": [1, 2]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "queries.parquet")
    first, second = (request for _, request in read_records(tmp_path / "queries.parquet"))
    assert isinstance(first, Request) and isinstance(second, Request)
    assert turns(first) == [[("user", "Why?"), ("assistant", "x")], [("user", "Why?"), ("assistant", "y")]]
    assert turns(second) == [[("system", "Be brief."), ("user", "How?"), ("assistant", "z")]]
    assert second.documents == ({"id": "c", "text": "z"},)


@pytest.mark.parametrize(("relevant", "irrelevant"), [("positive", "negative"), ("pos", "neg")])
def test_reranking_data_sets(relevant: str, irrelevant: str) -> None:
    """MTEB's and FlagEmbedding's columns: lists of documents, of which the relevant ones should be above."""
    request = parse_record({"query": "Why?", relevant: ["a", "b"], irrelevant: ["c"], "language": "en"})
    assert (request.kind, request.chosen) == ("sets", 2)
    assert turns(request) == [[("user", "Why?"), ("assistant", text)] for text in "abc"]
    assert parse_record({"query": "Why?", relevant: "a", irrelevant: "b"}).kind == "pair"
    plain = parse_record({"prompt": "How?", "response": "a"})
    assert parse_record({"prompt": "How?", "response": "a", "query": "b", relevant: ["c"], irrelevant: ["d"]}) == plain
    documents = parse_record({"query": "Why?", "documents": ["a"], relevant: ["c"], irrelevant: ["d"]})
    assert (documents.kind, documents.documents) == ("documents", ("a",))
