"""OpenRLHF's /get_reward: a number for every query, and requests that are held instead of refused."""

import asyncio
from pathlib import Path

import pytest

from asgi_client import AsgiClient
from gated_engine import gated_model, wait_until
from rmruntime import RewardModel
from rmruntime.serve import Application, app
from rmruntime.serve.protocols import openrlhf
from rmruntime.serve.served_model import ServedModel
from rmruntime.serve.service import Service

IDS = {"input_ids": [5, 6, 7, 8, 9, 10]}


def test_every_query_has_a_number(client: AsgiClient, model: RewardModel) -> None:
    for queries in (["What? Hello"], ["What? Hello", "What? a b", "x"]):
        body = {"query": queries, "prompts": ["What?"] * len(queries), "labels": [None] * len(queries)}
        for fields in (body, {"query": queries}, {"query": queries, "prompts": None}):
            answer = client.post("/get_reward", fields)
            assert answer.status == 200, answer.body
            expected = [score.value for score in model.score([{"text": query} for query in queries])]
            assert answer.json() == {"rewards": expected, "scores": expected, "extra_logs": {}}
    assert client.post("/get_reward", {"query": "What? Hello"}).json()["rewards"] == [
        score.value for score in model.score([{"text": "What? Hello"}])
    ]


def test_a_text_that_begins_with_the_bos_gets_no_second_one(client: AsgiClient, model: RewardModel) -> None:
    text = model.tokenizer.decode(model.tokenizer.encode_text("Hello").tolist())
    with_bos, without = (client.post("/get_reward", {"query": [query]}).json() for query in (text, "Hello"))
    assert with_bos == without


def test_what_has_no_reward_is_an_error(client: AsgiClient, labels_client: AsgiClient) -> None:
    for fields in ({}, {"query": []}, {"query": [5]}, {"query": [None]}, {"query": ["a", ""]}):
        answer = client.post("/get_reward", fields)
        assert answer.status == 400, fields
        assert set(answer.json()) == {"detail"}
    without = labels_client.post("/get_reward", {"query": ["Hello"]})
    assert without.status == 400 and "no single score" in without.json()["detail"]


def test_a_request_is_held_while_the_queue_is_full(classifier_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openrlhf, "_PAUSE", 0.01)
    model, engine = gated_model(classifier_bundle, queue_tokens=20)
    client = AsgiClient(app(model))

    async def scenario() -> None:
        tasks = [asyncio.ensure_future(client.arequest("POST", "/v1/rewards", IDS))]
        await asyncio.to_thread(engine.wait_for_pass)
        tasks += [asyncio.ensure_future(client.arequest("POST", "/v1/rewards", IDS)) for _ in range(3)]
        await asyncio.to_thread(wait_until, lambda: model.waiting_tokens == 18)
        assert (await client.arequest("POST", "/v1/rewards", IDS)).status == 503
        held = asyncio.ensure_future(client.arequest("POST", "/get_reward", {"query": ["Hello"]}))
        await asyncio.sleep(0.1)
        assert not held.done()
        hurried = {"X-Request-Timeout-Ms": "0"}
        refused = await client.arequest("POST", "/get_reward", {"query": ["Hello"]}, headers=hurried)
        assert refused.status in (503, 504) and "detail" in refused.json()
        engine.permit(100)
        assert [(await task).status for task in tasks] == [200] * 4
        assert len((await held).json()["rewards"]) == 1

    client.run(scenario())
    found = client.get("/metrics").body.decode()
    assert 'route="/get_reward"' in found
    model.close()
    client.close()


def test_a_request_is_held_while_the_bundle_is_loaded(model: RewardModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openrlhf, "_PAUSE", 0.01)
    loading = ServedModel("default")
    client = AsgiClient(Application(Service([loading])))

    async def scenario() -> None:
        held = asyncio.ensure_future(client.arequest("POST", "/get_reward", {"query": ["Hello"]}))
        await asyncio.sleep(0.05)
        assert not held.done()
        loading.replace(model)
        assert (await held).status == 200

    client.run(scenario())
    client.close()


def test_holding_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openrlhf, "HOLD_SECONDS", 0.05)
    client = AsgiClient(Application(Service([ServedModel("default")])))
    refused = client.post("/get_reward", {"query": ["Hello"]})
    assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
    client.close()
