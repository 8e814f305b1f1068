"""/v1/embeddings as verl and OpenAI's SDK call it, and SGLang's /v1/score beside vLLM's."""

import base64
import math
import struct
from typing import Any

import pytest

from asgi_client import AsgiClient
from rmruntime import RewardModel


def values(model: RewardModel, *records: dict[str, Any]) -> list[float | None]:
    return [score.value for score in model.score(records)]


def test_embeddings_are_rewards(client: AsgiClient, model: RewardModel) -> None:
    for given, records in (
        ("Hello", [{"text": "Hello"}]),
        (["Hello", "What?"], [{"text": "Hello"}, {"text": "What?"}]),
        ([5, 6, 7], [{"input_ids": [5, 6, 7]}]),
        ([[5, 6], [7]], [{"input_ids": [5, 6]}, {"input_ids": [7]}]),
    ):
        answer = client.post("/v1/embeddings", {"model": "/checkpoints/rm", "input": given})
        assert answer.status == 200, answer.body
        body = answer.json()
        expected = values(model, *records)
        assert [item["embedding"] for item in body["data"]] == [[value] for value in expected]
        assert body["data"][-1]["embedding"][-1] == expected[-1]
        assert [item["index"] for item in body["data"]] == list(range(len(records)))
        assert body["object"] == "list" and body["model"] == "/checkpoints/rm"
        tokens = sum(score.tokens for score in model.score(records))
        assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == tokens


def test_embeddings_in_base64(client: AsgiClient, labels_client: AsgiClient, label_model: RewardModel) -> None:
    fields = {"input": "Hello", "encoding_format": "base64"}
    [score] = label_model.score([{"text": "Hello"}])
    assert score.rewards is not None
    for made, count in ((client, 1), (labels_client, 3)):
        plain = made.post("/v1/embeddings", {"input": "Hello"}).json()["data"][0]["embedding"]
        coded = made.post("/v1/embeddings", fields).json()["data"][0]["embedding"]
        assert list(struct.unpack(f"<{count}f", base64.b64decode(coded))) == plain
    assert plain == list(score.rewards.values())


def test_a_query_with_items_behind_or_in_front(client: AsgiClient, model: RewardModel) -> None:
    items = ["a", " b c"]
    for fields, records in (
        ({"query": "What?", "items": items}, [{"text": "What?a"}, {"text": "What? b c"}]),
        ({"query": "What?", "items": items, "item_first": True}, [{"text": "aWhat?"}, {"text": " b cWhat?"}]),
        ({"query": "What?", "items": "a"}, [{"text": "What?a"}]),
        ({"query": [5, 6], "items": [[7], [8, 9]]}, [{"input_ids": [5, 6, 7]}, {"input_ids": [5, 6, 8, 9]}]),
    ):
        answer = client.post("/v1/score", {**fields, "model": "any"})
        assert answer.status == 200, answer.body
        assert answer.json()["scores"] == [[value] for value in values(model, *records)]
        assert answer.json()["object"] == "scoring" and answer.json()["model"] == "any"


def test_scores_are_raw_unless_softmax_is_asked_for(
    client: AsgiClient, model: RewardModel, labels_client: AsgiClient
) -> None:
    [raw] = values(model, {"text": "What?a"})
    assert raw is not None
    fields = {"query": "What?", "items": ["a"]}
    for flag, expected in ((None, raw), (False, raw), (True, 1 / (1 + math.exp(-raw)))):
        [[found]] = client.post("/v1/score", {**fields, "apply_softmax": flag}).json()["scores"]
        assert found == pytest.approx(expected, abs=1e-12)
    [labels] = labels_client.post("/v1/score", {**fields, "apply_softmax": True}).json()["scores"]
    assert len(labels) == 3 and math.fsum(labels) == pytest.approx(1.0)


def test_the_steps_of_each_item(steps_client: AsgiClient, step_model: RewardModel, client: AsgiClient) -> None:
    fields = {"query": "What? ", "items": ["One. ки\nTwo. ки", "Three. ки"], "score_extraction_token": " ки"}
    expected = step_model.score([{"text": "What? One. ки\nTwo. ки"}, {"text": "What? Three. ки"}])
    found = steps_client.post("/v1/score", fields).json()["scores"]
    assert found == [[[value] for value in score.steps or ()] for score in expected]
    assert [len(item) for item in found] == [2, 1]
    whole = steps_client.post("/v1/score", {**fields, "score_extraction_token": None}).json()["scores"]
    assert whole == [[score.value] for score in expected]
    other = steps_client.post("/v1/score", {**fields, "score_extraction_token": "x"})
    assert other.status == 400 and "' ки'" in other.json()["message"]
    assert client.post("/v1/score", fields).status == 400


def test_errors_are_flat(client: AsgiClient) -> None:
    for path, fields in (
        ("/v1/embeddings", {}),
        ("/v1/embeddings", {"input": []}),
        ("/v1/embeddings", {"input": " "}),
        ("/v1/embeddings", {"input": ["Hello", ""]}),
        ("/v1/embeddings", {"input": "Hello", "dimensions": 8}),
        ("/v1/embeddings", {"input": "Hello", "encoding_format": "bytes"}),
        ("/v1/score", {"query": "What?"}),
        ("/v1/score", {"query": "What?", "items": []}),
        ("/v1/score", {"query": "What?", "items": [[5]]}),
        ("/v1/score", {"query": {}, "items": ["a"]}),
        ("/v1/score", {"query": "What?", "items": ["a"], "label_token_ids": [5]}),
        ("/v1/score", {"query": "What?", "items": ["a"], "temperature": 0.5}),
    ):
        answer = client.post(path, fields)
        assert answer.status == 400, (path, fields, answer.body)
        assert set(answer.json()) == {"object", "message", "type", "param", "code"}
        assert answer.json()["type"] == "BadRequestError" and answer.json()["code"] == 400
