"""Documents in the order of their scores: `RewardModel.rank`, files, and the command."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from rmexport import ExportOptions, export
from rmruntime import InputError, OptionError, RewardModel, Score, ScoreOptions
from rmruntime.cli import main
from rmruntime.scores import ranked
from tiny_checkpoints import causal_lm, sequence_classifier

RECIPE = {
    "name": "own", "description": "d", "head": "token_logits", "token_ids": [7, 9], "layout": "query_document",
    "pieces": ["{{ instruction }}Q: {{ query }}\n", "D: {{ document }}", "\nRelevant:"],
}  # fmt: skip
QUERY = "What is 1 + 2?"
DOCUMENTS: list[Any] = ["the sum", {"id": "d-1", "text": "3", "url": "x"}, "", "é 東🙂", {"text": "the answer is 3."}]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rank")
    (folder / "own.json").write_text(json.dumps(RECIPE))
    reranker = causal_lm(folder / "c")
    export(str(reranker.folder), folder / "reranker", ExportOptions(recipe=str(folder / "own.json")))
    export(str(sequence_classifier(folder / "s").folder), folder / "classifier")
    export(str(sequence_classifier(folder / "l", labels=3).folder), folder / "labels")
    return {name: folder / name for name in ("reranker", "classifier", "labels")}


def written(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize("name", ["reranker", "classifier"])
def test_the_best_first(bundles: dict[str, Path], name: str) -> None:
    """Of a reward model the query is the prompt, and a document a response."""
    texts = [document if isinstance(document, str) else document["text"] for document in DOCUMENTS]
    with RewardModel.load(bundles[name], device="ort-cpu") as model:
        found = model.rank(QUERY, DOCUMENTS)
        assert model.rank(QUERY, tuple(DOCUMENTS), top=2) == found[:2]
        assert model.rank(QUERY, DOCUMENTS, top=99) == found
        answers = model.score_candidates(QUERY, texts)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert sorted(one.index for one in found) == [0, 1, 2, 3, 4]
    assert all(one.document is DOCUMENTS[one.index] for one in found)
    assert all(one.score == one.details.value == answers[one.index].value for one in found)
    [empty] = [one for one in found if one.document == ""]
    assert empty.details.flags[0] == "no answer to judge: the document is empty"


def test_an_instruction_and_the_document_alone_are_cut(bundles: dict[str, Path]) -> None:
    with RewardModel.load(bundles["reranker"], device="ort-cpu") as model:
        [plain], [asked] = (model.rank(QUERY, ["3"], instruction=given) for given in (None, "Prefer numbers."))
        assert plain.score != asked.score
        options = ScoreOptions(max_length=64, truncate="right")
        found = model.rank(QUERY, ["3", "long " * 100], options=options)
        assert sorted((one.index, one.details.truncated > 0) for one in found) == [(0, False), (1, True)]
        with pytest.raises(InputError, match=r"documents\[1\]: found \d+ tokens, the limit is 512"):
            model.rank(QUERY, ["3", "long " * 1000])
        with pytest.raises(InputError, match="documents: found an empty list"):
            model.rank(QUERY, [])
        with pytest.raises(InputError, match="documents: found str, expected a list"):
            model.rank(QUERY, "3")
        with pytest.raises(OptionError, match="top is 0, expected at least 1"):
            model.rank(QUERY, ["3"], top=0)


def test_many_documents_whose_scores_are_equal_keep_their_order(bundles: dict[str, Path]) -> None:
    with RewardModel.load(bundles["reranker"], device="ort-cpu") as model:
        found = model.rank(QUERY, [f"number {i % 10}" for i in range(1000)])
    assert len(found) == 1000
    for before, after in pairwise(found):
        assert before.score > after.score or (before.score == after.score and before.index < after.index)
    assert len({one.score for one in found}) == 10


def test_nothing_to_rank_by(bundles: dict[str, Path]) -> None:
    with RewardModel.load(bundles["labels"], device="ort-cpu") as model:
        with pytest.raises(InputError, match="found no single score, only rewards"):
            model.rank(QUERY, ["3", "4"])
    assert ranked([], []) == [] and ranked(["a"], [Score(value=-1.0)])[0].score == -1.0


def test_a_file_of_queries(bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        {"id": "q-1", "query": QUERY, "documents": DOCUMENTS, "instruction": "Prefer numbers."},
        {"prompt": QUERY, "responses": ["3", "4"]},
    ]
    source = lines(tmp_path / "in.jsonl", *records)
    assert (
        main(["rank", str(bundles["reranker"]), source, "-o", str(tmp_path / "out.jsonl"), "--device", "ort-cpu"]) == 0
    )
    assert "2 records, 7 sequences on ort-cpu" in capsys.readouterr().err
    first, second = written(tmp_path / "out.jsonl")
    with RewardModel.load(bundles["reranker"], device="ort-cpu") as model:
        expected = model.rank(QUERY, DOCUMENTS, instruction="Prefer numbers.")
        [scores] = model.score([records[0]])
    assert first["id"] == "q-1" and second["id"] == 1
    assert [(r["index"], r["score"], r["document"]) for r in first["results"]] == [
        (one.index, one.score, one.document) for one in expected
    ]
    assert set(first["results"][0]) >= {"index", "score", "logit", "document"}
    assert [r["document"] for r in second["results"]] in (["3", "4"], ["4", "3"])
    short = ["rank", str(bundles["reranker"]), source, "--top", "1", "--no-documents", "--device", "ort-cpu"]
    assert main([*short, "-o", str(tmp_path / "short.jsonl")]) == 0
    best = written(tmp_path / "short.jsonl")[0]["results"]
    given = DOCUMENTS[expected[0].index]
    assert [(set(r) - {"flags", "logit"}, r["index"]) for r in best] == [
        ({"index", "score"} | ({"id"} if isinstance(given, dict) and "id" in given else set()), expected[0].index)
    ]
    assert (
        main(["score", str(bundles["reranker"]), source, "-o", str(tmp_path / "s.jsonl"), "--device", "ort-cpu"]) == 0
    )
    assert written(tmp_path / "s.jsonl")[0]["scores"] == [score.value for score in scores]  # type: ignore[union-attr]


def test_a_table_of_ranked_documents(bundles: dict[str, Path], tmp_path: Path) -> None:
    documents = [{"id": i, "text": text} for i, text in enumerate(("3", "four", "the sum"))]
    source = lines(tmp_path / "in.jsonl", {"query": QUERY, "documents": documents})
    assert (
        main(["rank", str(bundles["reranker"]), source, "-o", str(tmp_path / "out.parquet"), "--device", "ort-cpu"])
        == 0
    )
    [row] = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [result["document"] for result in row["results"]] == [documents[r["index"]] for r in row["results"]]


def test_records_that_cannot_be_ranked(
    bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        {"query": QUERY, "documents": ["3", "4"]},
        {"id": "lone", "prompt": QUERY, "response": "3"},
        {"query": QUERY},
    ]
    source = lines(tmp_path / "in.jsonl", *records)
    command = ["rank", str(bundles["reranker"]), source, "-o", str(tmp_path / "out.jsonl"), "--device", "ort-cpu"]
    assert main(command) == 2
    assert "record 1: found nothing to rank, expected query and documents" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip"]) == 0
    found = written(tmp_path / "out.jsonl")
    assert [("results" in record, "error" in record) for record in found] == [
        (True, False),
        (False, True),
        (False, True),
    ]
    assert [record["id"] for record in found] == [0, "lone", 2]
    assert main([*command, "--top", "0"]) == 2
    assert "top is 0, expected at least 1" in capsys.readouterr().err
