"""TEI's /predict, /rerank and /info: pairs, sorted labels, explicit activation, and errors with its statuses."""

import math
from typing import Any

import pytest

from asgi_client import AsgiClient
from rmruntime import RewardModel, ScoreOptions
from rmruntime.serve.application import error_answer
from rmruntime.serve.problems import Kind, Problem
from rmruntime.serve.protocols import find_protocols

TEI = find_protocols()["tei"]


def values(model: RewardModel, *records: dict[str, Any]) -> list[float]:
    return [score.value or 0.0 for score in model.score(records)]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_two_texts_are_one_pair(client: AsgiClient, model: RewardModel) -> None:
    single, pair = {"text": "Hello"}, {"query": "What?", "document": "Hello"}
    for inputs, records, several in (
        ("Hello", [single], False),
        (["Hello"], [single], False),
        (["What?", "Hello"], [pair], False),
        ([["Hello"]], [single], True),
        ([["Hello"], ["What?", "Hello"]], [single, pair], True),
    ):
        answer = client.post("/predict", {"inputs": inputs})
        assert answer.status == 200, answer.body
        expected = [[{"score": value, "label": "LABEL_0"}] for value in values(model, *records)]
        assert answer.json() == (expected if several else expected[0])


def test_labels_are_sorted(labels_client: AsgiClient, label_model: RewardModel) -> None:
    [score] = label_model.score([{"text": "Hello"}])
    assert score.rewards is not None
    found = labels_client.post("/predict", {"inputs": "Hello"}).json()
    assert {item["label"]: item["score"] for item in found} == score.rewards
    assert [item["score"] for item in found] == sorted(score.rewards.values(), reverse=True)
    activated = labels_client.post("/predict", {"inputs": "Hello", "raw_scores": False}).json()
    assert math.fsum(item["score"] for item in activated) == pytest.approx(1.0)
    assert [item["label"] for item in activated] == [item["label"] for item in found]


def test_scores_are_raw_unless_the_request_says_otherwise(client: AsgiClient, model: RewardModel) -> None:
    [raw] = values(model, {"query": "What?", "document": "a"})
    for flag, expected in ((None, raw), (True, raw), (False, sigmoid(raw))):
        [ranked] = client.post("/rerank", {"query": "What?", "texts": ["a"], "raw_scores": flag}).json()
        [predicted] = client.post("/predict", {"inputs": ["What?", "a"], "raw_scores": flag}).json()
        assert ranked["score"] == predicted["score"] == pytest.approx(expected, abs=1e-12)


def test_rerank_puts_the_best_first(client: AsgiClient, model: RewardModel) -> None:
    texts = ["a", "b c", "d e f", "a"]
    scores = [score.value or 0.0 for score in model.score_candidates("What?", texts)]
    order = sorted(range(4), key=lambda index: -scores[index])
    found = client.post("/rerank", {"query": "What?", "texts": texts}).json()
    assert found == [{"index": index, "score": scores[index]} for index in order]
    with_text = client.post("/rerank", {"query": "What?", "texts": texts, "return_text": True}).json()
    assert [item["text"] for item in with_text] == [texts[index] for index in order]


def test_the_path_of_two_dialects(client: AsgiClient) -> None:
    assert isinstance(client.post("/rerank", {"query": "What?", "texts": ["a"]}).json(), list)
    assert "results" in client.post("/rerank", {"query": "What?", "documents": ["a"]}).json()
    assert client.post("/rerank", body=b"{").json()["error"]["type"] == "BadRequestError"


def test_truncation(client: AsgiClient, model: RewardModel) -> None:
    text = "a b " * model.manifest.backbone.max_length
    refused = client.post("/predict", {"inputs": text})
    assert refused.status == 422 and refused.json()["error_type"] == "Validation"
    [left] = model.score([{"text": text}], ScoreOptions(truncate="left"))
    [right] = model.score([{"text": text}], ScoreOptions(truncate="right"))
    assert left.value != right.value
    for side, expected in (("left", left), ("Left", left), ("right", right), (None, right)):
        fields = {"inputs": text, "truncate": True, "truncation_direction": side}
        [found] = client.post("/predict", fields).json()
        assert found["score"] == expected.value, side


def test_info(client: AsgiClient, labels_client: AsgiClient, model: RewardModel, label_model: RewardModel) -> None:
    answer = client.get("/info")
    found = answer.json()
    assert found["max_input_length"] == model.manifest.backbone.max_length
    assert found["model_dtype"] == "float32" and found["served_model_name"] == "default"
    assert found["model_type"] == {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    assert found["max_client_batch_size"] == model.queue_tokens and found["auto_truncate"] is False
    assert len(answer.headers["x-bundle-digest"]) == 64
    [score] = label_model.score([{"text": "Hello"}])
    labels = labels_client.get("/info").json()["model_type"]["classifier"]["id2label"]
    assert list(labels.values()) == list(score.rewards or ())


def test_errors_have_its_shape(client: AsgiClient, labels_client: AsgiClient) -> None:
    for path, fields in (
        ("/predict", {}),
        ("/predict", {"inputs": []}),
        ("/predict", {"inputs": ["a", "b", "c"]}),
        ("/predict", {"inputs": [["a"], "b"]}),
        ("/predict", {"inputs": [["a", "b", "c"]]}),
        ("/predict", {"inputs": "a", "raw_scores": "yes"}),
        ("/predict", {"inputs": "a", "truncation_direction": "up"}),
        ("/rerank", {"texts": ["a"]}),
        ("/rerank", {"query": "a", "texts": []}),
        ("/rerank", {"query": "a", "texts": [{"text": "a"}]}),
    ):
        answer = client.post(path, fields)
        assert answer.status == 422, (path, fields, answer.body)
        assert set(answer.json()) == {"error", "error_type"} and answer.json()["error_type"] == "Validation"
    unranked = labels_client.post("/rerank", {"query": "a", "texts": ["b"]})
    assert unranked.status == 422 and "no single score" in unranked.json()["error"]


@pytest.mark.parametrize(
    ("kind", "status", "error_type"),
    [("overloaded", 429, "Overloaded"), ("unavailable", 503, "Unhealthy"), ("engine", 424, "Backend")],
)
def test_its_statuses(kind: Kind, status: int, error_type: str) -> None:
    answer = error_answer(Problem(kind=kind, message="Why.", retry_after=3.0), TEI)
    assert answer.status == status and f'"error_type":"{error_type}"'.encode() in answer.body
    assert answer.headers.get("retry-after") == (None if kind == "engine" else "3")


def test_without_a_key_the_body_is_empty() -> None:
    answer = error_answer(Problem(kind="unauthorized", message="Why."), TEI)
    assert answer.status == 401 and answer.body == b""
