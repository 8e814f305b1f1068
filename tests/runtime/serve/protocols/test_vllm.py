"""vLLM's routes: their fields, their answers, explicit activation, and errors in their shape."""

import base64
import math
import struct
from typing import Any

import pytest

from asgi_client import AsgiClient
from rmruntime import RewardModel

MESSAGES = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "Hello world."}]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def values(model: RewardModel, *records: dict[str, Any]) -> list[float | None]:
    return [score.value for score in model.score(records)]


def test_classify_takes_a_text_several_ids_and_messages(client: AsgiClient, model: RewardModel) -> None:
    for fields, records in (
        ({"input": "Hello"}, [{"text": "Hello"}]),
        ({"input": ["Hello", "What?"]}, [{"text": "Hello"}, {"text": "What?"}]),
        ({"input": [5, 6, 7]}, [{"input_ids": [5, 6, 7]}]),
        ({"input": [[5, 6], [7]]}, [{"input_ids": [5, 6]}, {"input_ids": [7]}]),
        ({"messages": MESSAGES}, [{"messages": MESSAGES}]),
        ({"messages": [MESSAGES, MESSAGES]}, [{"messages": MESSAGES}] * 2),
    ):
        answer = client.post("/classify", {"model": "any/path", **fields})
        assert answer.status == 200, answer.body
        body = answer.json()
        assert [item["probs"] for item in body["data"]] == [[value] for value in values(model, *records)]
        assert [(item["index"], item["num_classes"], item["label"]) for item in body["data"]] == [
            (index, 1, "LABEL_0") for index in range(len(records))
        ]
        assert body["object"] == "list" and body["model"] == "any/path" and body["id"].startswith("classify-")
        tokens = sum(score.tokens for score in model.score(records))
        assert body["usage"]["prompt_tokens"] == body["usage"]["total_tokens"] == tokens


def test_scores_are_raw_unless_the_request_says_otherwise(client: AsgiClient, model: RewardModel) -> None:
    [raw] = values(model, {"text": "Hello"})
    assert raw is not None
    for fields, expected in (
        ({}, raw),
        ({"use_activation": False}, raw),
        ({"activation": False}, raw),
        ({"use_activation": None}, raw),
        ({"use_activation": True}, sigmoid(raw)),
        ({"activation": True}, sigmoid(raw)),
    ):
        [found] = client.post("/classify", {"input": "Hello", **fields}).json()["data"]
        assert found["probs"] == [pytest.approx(expected, abs=1e-12)], fields


def test_classify_of_several_labels(labels_client: AsgiClient, label_model: RewardModel) -> None:
    [score] = label_model.score([{"text": "Hello"}])
    assert score.rewards is not None
    [raw] = labels_client.post("/classify", {"input": "Hello"}).json()["data"]
    assert raw["probs"] == list(score.rewards.values()) and raw["num_classes"] == 3
    assert raw["label"] == max(score.rewards, key=score.rewards.__getitem__)
    [activated] = labels_client.post("/classify", {"input": "Hello", "use_activation": True}).json()["data"]
    assert math.fsum(activated["probs"]) == pytest.approx(1.0)
    refused = labels_client.post("/rerank", {"query": "What?", "documents": ["a"]})
    assert refused.status == 400 and "no single score" in refused.json()["error"]["message"]


def test_pooling_of_answers_and_of_steps(
    client: AsgiClient, model: RewardModel, steps_client: AsgiClient, step_model: RewardModel
) -> None:
    [value] = values(model, {"text": "Hello"})
    [found] = client.post("/pooling", {"input": "Hello"}).json()["data"]
    assert found == {"index": 0, "object": "pooling", "data": [value]}
    text = {"input": "What? One. ки\nTwo. ки", "task": "token_classify"}
    rows = steps_client.post("/pooling", text).json()["data"][0]["data"]
    [expected] = step_model.score([{"text": text["input"]}])
    assert rows == [[value] for value in expected.steps or ()] and len(rows) == 2
    logits = steps_client.post("/pooling", {**text, "use_activation": False}).json()["data"][0]["data"]
    assert logits == [[value] for value in expected.step_logits or ()]
    for task in ("classify", "embed", "reward"):
        refused = steps_client.post("/pooling", {**text, "task": task})
        assert refused.status == 400 and "Try switching the model's pooling_task" in refused.json()["error"]["message"]


def test_pooling_in_base64(client: AsgiClient, model: RewardModel) -> None:
    [value] = values(model, {"text": "Hello"})
    for order, mark in (("little", "<"), ("big", ">"), ("native", "=")):
        fields = {"input": "Hello", "encoding_format": "base64", "endianness": order}
        encoded = client.post("/pooling", fields).json()["data"][0]["data"]
        assert struct.unpack(f"{mark}f", base64.b64decode(encoded)) == (value,)


def test_score_of_pairs(client: AsgiClient, model: RewardModel) -> None:
    documents = ["a", "b c", "a"]
    expected = values(model, *({"query": "What?", "document": document} for document in documents))
    content = {"content": [{"type": "text", "text": "b c"}]}
    for path in ("/score", "/v1/score"):
        for left, right in (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2")):
            body = client.post(path, {left: "What?", right: ["a", content, "a"]}).json()
            assert [item["score"] for item in body["data"]] == expected
    pairs = {"queries": ["What?", "Hello"], "documents": ["a", "b c"]}
    found = client.post("/score", pairs).json()["data"]
    records = [{"query": "What?", "document": "a"}, {"query": "Hello", "document": "b c"}]
    assert [item["score"] for item in found] == values(model, *records)
    assert client.post("/score", {"queries": ["a", "b"], "documents": ["a", "b", "c"]}).status == 400


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_rerank_puts_the_best_first(path: str, client: AsgiClient, model: RewardModel) -> None:
    documents = ["a", "b c", "d e f", "a"]
    scores = model.score_candidates("What?", documents)
    order = sorted(range(4), key=lambda index: -(scores[index].value or 0.0))
    body = client.post(path, {"query": "What?", "documents": documents}).json()
    assert [item["index"] for item in body["results"]] == order
    assert [item["relevance_score"] for item in body["results"]] == [scores[index].value for index in order]
    assert body["results"][0]["document"] == {"text": documents[order[0]], "multi_modal": None}
    assert body["usage"]["total_tokens"] == sum(score.tokens for score in scores)
    for top, expected in ((1, 1), (0, 4), (9, 4), (None, 4)):
        found = client.post(path, {"query": "What?", "documents": documents, "top_n": top}).json()
        assert len(found["results"]) == expected
    objects = [{"text": document} for document in documents]
    bare = client.post(path, {"query": "What?", "documents": objects, "return_documents": False}).json()
    assert [set(item) for item in bare["results"]] == [{"index", "relevance_score"}] * 4


def test_truncation(client: AsgiClient, model: RewardModel) -> None:
    ids = [5] * (model.manifest.backbone.max_length + 1)
    refused = client.post("/classify", {"input": ids})
    assert refused.status == 400
    error = refused.json()["error"]
    assert error["message"].startswith("This model's maximum context length is") and error["param"] == "input_tokens"
    assert error["type"] == "BadRequestError" and error["code"] == 400
    cut = client.post("/classify", {"input": ids, "truncate_prompt_tokens": -1}).json()
    assert cut["usage"]["prompt_tokens"] == len(ids) - 1
    shorter = client.post("/classify", {"input": [5, 6, 7, 8], "truncate_prompt_tokens": 3, "truncation_side": "left"})
    assert shorter.json()["data"][0]["probs"] == values(model, {"input_ids": [6, 7, 8]})
    assert client.post("/classify", {"input": ids, "truncate_prompt_tokens": len(ids)}).status == 400


def test_what_is_not_offered_is_refused_and_what_is_unknown_is_not_read(client: AsgiClient) -> None:
    for name, value in (("chat_template", "{{ messages }}"), ("normalize", True), ("dimensions", 2), ("priority", 1)):
        refused = client.post("/classify", {"input": "Hello", name: value})
        assert refused.status == 400 and refused.json()["error"]["param"] == name
    assert client.post("/classify", {"input": "Hello", "user": "me", "some_new_field": {}}).status == 200


def test_malformed_fields(client: AsgiClient) -> None:
    for path, fields in (
        ("/classify", {}),
        ("/classify", {"input": []}),
        ("/classify", {"input": [{}]}),
        ("/classify", {"input": 5}),
        ("/classify", {"input": "Hello", "use_activation": "yes"}),
        ("/classify", {"messages": "Hello"}),
        ("/score", {"queries": "a"}),
        ("/rerank", {"query": "a", "documents": []}),
        ("/rerank", {"query": "a", "documents": [{"image": "x"}]}),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": -1}),
        ("/tokenize", {}),
        ("/detokenize", {"tokens": [-1]}),
    ):
        answer = client.post(path, fields)
        assert answer.status == 400, (path, fields, answer.body)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_long_wrong_value_is_cut_in_the_message(client: AsgiClient) -> None:
    answer = client.post("/classify", {"input": [{"x": "y" * 100_000}]})
    assert answer.status == 400 and len(answer.body) < 1000


def test_tokenize_and_back(client: AsgiClient, model: RewardModel) -> None:
    body = client.post("/tokenize", {"prompt": "Hello world.", "return_token_strs": True}).json()
    assert body["count"] == len(body["tokens"]) == len(body["token_strs"]) > 0
    assert body["max_model_len"] == model.manifest.backbone.max_length
    assert client.post("/detokenize", {"tokens": body["tokens"]}).json()["prompt"].endswith("Hello world.")
    chat = client.post("/tokenize", {"messages": MESSAGES, "add_generation_prompt": False}).json()
    assert chat["count"] == model.score([{"messages": MESSAGES}])[0].tokens


def test_tokenize_a_long_text(client: AsgiClient) -> None:
    text = "Hello world. " * 1000
    tokens = client.post("/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert client.post("/detokenize", {"tokens": tokens}).json()["prompt"] == text


def test_models(client: AsgiClient, model: RewardModel) -> None:
    [card] = client.get("/v1/models").json()["data"]
    assert card["id"] == "default" and card["max_model_len"] == model.manifest.backbone.max_length
    assert client.get("/v1/models/default").json()["id"] == "default"
    missing = client.get("/v1/models/other")
    assert missing.status == 404 and missing.json()["error"]["type"] == "NotFoundError"


def test_invocations_do_what_the_fields_ask_for(client: AsgiClient) -> None:
    for fields, prefix in (
        ({"input": "Hello"}, "classify-"),
        ({"input": "Hello", "task": "classify"}, "pooling-"),
        ({"query": "What?", "documents": ["a"]}, "score-"),
        ({"text_1": "What?", "text_2": "a"}, "score-"),
    ):
        assert client.post("/invocations", fields).json()["id"].startswith(prefix)


def test_an_answer_has_the_id_that_its_request_had(client: AsgiClient) -> None:
    by_header = client.post("/classify", {"input": "Hello", "request_id": "b"}, headers={"X-Request-Id": "a"})
    assert by_header.json()["id"] == "classify-a" and by_header.headers["x-request-id"] == "a"
    assert client.post("/classify", {"input": "Hello", "request_id": "b"}).json()["id"] == "classify-b"
