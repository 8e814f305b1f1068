"""SGLang's /classify: told apart from vLLM's by its fields, a list answered by a list, raw rewards, its own errors."""

from asgi_client import AsgiClient
from rmruntime import RewardModel


def test_one_text_is_answered_by_an_object_and_a_list_by_a_list(client: AsgiClient, model: RewardModel) -> None:
    for fields, records, several in (
        ({"text": "Hello"}, [{"text": "Hello"}], False),
        ({"text": ["Hello"]}, [{"text": "Hello"}], True),
        ({"text": ["Hello", "What?"]}, [{"text": "Hello"}, {"text": "What?"}], True),
        ({"text": [["What?", "Hello"]]}, [{"query": "What?", "document": "Hello"}], True),
        ({"input_ids": [5, 6, 7]}, [{"input_ids": [5, 6, 7]}], False),
        ({"input_ids": [[5, 6], [7]]}, [{"input_ids": [5, 6]}, {"input_ids": [7]}], True),
    ):
        answer = client.post("/classify", {"model": "any/path", **fields})
        assert answer.status == 200, answer.body
        assert isinstance(answer.json(), list) == several
        found = answer.json() if several else [answer.json()]
        scores = model.score(records)
        assert [item["embedding"] for item in found] == [[score.value] for score in scores]
        assert [item["meta_info"]["prompt_tokens"] for item in found] == [score.tokens for score in scores]


def test_put_and_the_answers_headers(client: AsgiClient, model: RewardModel) -> None:
    [score] = model.score([{"text": "Hello"}])
    answer = client.request("PUT", "/classify", {"text": "Hello"})
    assert answer.json()["embedding"] == [score.value]
    assert answer.json()["meta_info"]["weight_version"] == answer.headers["x-bundle-digest"]


def test_several_labels_have_a_number_each(labels_client: AsgiClient, label_model: RewardModel) -> None:
    [score] = label_model.score([{"text": "Hello"}])
    assert score.rewards is not None
    assert labels_client.post("/classify", {"text": "Hello"}).json()["embedding"] == list(score.rewards.values())


def test_ids_of_requests(client: AsgiClient) -> None:
    def ids(fields: dict[str, object]) -> list[str]:
        found = client.post("/classify", {"text": ["Hello", "What?"], **fields}, headers={"X-Request-Id": "r"}).json()
        return [item["meta_info"]["id"] for item in found]

    assert ids({}) == ["r_0", "r_1"]
    assert ids({"rid": "mine"}) == ["mine_0", "mine_1"]
    assert ids({"rid": ["a", "b"]}) == ["a", "b"]
    assert client.post("/classify", {"text": ["Hello"], "rid": ["a", "b"]}).status == 400
    one = client.post("/classify", {"text": "Hello", "rid": "mine"}).json()
    assert one["meta_info"]["id"] == "mine"


def test_errors_have_its_shape(client: AsgiClient) -> None:
    for fields in (
        {"text": []},
        {"text": 5},
        {"text": ["Hello", {}]},
        {"text": [["a", "b", "c"]]},
        {"input_ids": []},
        {"input_ids": ["a"]},
        {"input_ids": [10**9]},
        {"text": "Hello", "dimensions": 2},
        {"text": "Hello", "priority": 1},
        {"text": "Hello", "return_pooled_hidden_states": True},
    ):
        answer = client.post("/classify", fields)
        assert answer.status == 400, fields
        assert set(answer.json()) == {"error"} and set(answer.json()["error"]) == {"message"}


def test_a_body_of_neither_dialect_is_answered_as_vllm_does(client: AsgiClient) -> None:
    for body in (b"{", b"{}"):
        answer = client.post("/classify", body=body)
        assert answer.status == 400 and answer.json()["error"]["type"] == "BadRequestError"


def test_too_long(client: AsgiClient, model: RewardModel) -> None:
    answer = client.post("/classify", {"input_ids": [5] * (model.manifest.backbone.max_length + 1)})
    assert answer.status == 400 and str(model.manifest.backbone.max_length) in answer.json()["error"]["message"]
