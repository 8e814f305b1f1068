"""/v1/rewards: the records of the command line, one and many, and what it answers to bad ones."""

from typing import Any

from asgi_client import AsgiClient
from rmruntime import RewardModel

RECORD = {"prompt": "What?", "response": "Hello world."}
RECORDS: list[dict[str, Any]] = [
    RECORD,
    {"prompt": "What?", "responses": ["a", "b c"], "id": "many"},
    {"prompt": "What?", "chosen": "Hello", "rejected": "x"},
    {"input_ids": [5, 6, 7]},
]


def test_one_record_has_what_score_returns(client: AsgiClient, model: RewardModel) -> None:
    answer = client.post("/v1/rewards", RECORD)
    assert answer.status == 200
    [expected] = model.score([RECORD])
    assert answer.json()["result"] == {"score": expected.value, "tokens": expected.tokens}
    assert answer.json()["usage"]["tokens"] == expected.tokens
    assert answer.headers["x-engine"] == "ort-cpu"
    assert answer.headers["x-bundle-digest"] == answer.json()["model"]["digest"]


def test_many_records_of_every_kind(client: AsgiClient, model: RewardModel) -> None:
    results = client.post("/v1/rewards", {"records": RECORDS, "model": "/any/path"}).json()["results"]
    single, candidates, pair, ids = model.score(RECORDS)
    assert results[0]["score"] == single.value
    assert results[1]["scores"] == [score.value for score in candidates] and results[1]["id"] == "many"
    assert [results[2]["chosen_score"], results[2]["rejected_score"]] == [score.value for score in pair]
    assert results[3]["score"] == ids.value


def test_a_bad_record_is_the_answer_unless_it_is_to_be_skipped(client: AsgiClient) -> None:
    records = [RECORD, {"promt": "What?", "response": "a"}]
    refused = client.post("/v1/rewards", {"records": records})
    assert refused.status == 400 and refused.json()["error"]["index"] == 1
    assert refused.json()["error"]["message"].startswith("record 1: the record: found the unknown key 'promt'")
    skipped = client.post("/v1/rewards", {"records": records, "on_error": "skip"})
    assert skipped.status == 200
    first, second = skipped.json()["results"]
    assert second["error"]["index"] == 1
    assert "score" in first and second["error"]["kind"] == "unscorable" and "score" not in second


def test_malformed_bodies(client: AsgiClient) -> None:
    for body in (b"", b"{", b"[1]", b'"text"', b"{}", b'{"records": 5}', b'{"text": NaN}', b"\xff"):
        answer = client.post("/v1/rewards", body=body)
        assert answer.status == 400, body
        assert answer.json()["error"]["kind"] == "malformed", body


def test_paths_and_methods_that_are_not_there(client: AsgiClient) -> None:
    assert client.get("/nowhere").status == 404
    assert client.get("/v1/rewards").status == 405
