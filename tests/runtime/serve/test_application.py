"""The application around the protocols: keys, limits, deadlines, clients that go, a full queue, reload, mounting."""

import asyncio
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asgi_client import AsgiClient
from gated_engine import GatedEngine, gated_model, wait_until
from rmruntime import RewardModel
from rmruntime.serve import Application, ServerOptions, app
from rmruntime.serve.http_messages import Answer
from rmruntime.serve.problems import own_error_body
from rmruntime.serve.protocols.base import Protocol, Route
from rmruntime.serve.served_model import ServedModel
from rmruntime.serve.service import Service

IDS = {"input_ids": [5, 6, 7, 8, 9, 10]}


@pytest.fixture
def held(classifier_bundle: Path) -> Iterator[tuple[AsgiClient, GatedEngine]]:
    """A client of a model with a queue of 20 tokens, whose passes wait until the test lets them go."""
    model, engine = gated_model(classifier_bundle, queue_tokens=20)
    client = AsgiClient(app(model))
    yield client, engine
    engine.permit(1000)
    model.close()
    client.close()


async def waiting(client: AsgiClient, engine: GatedEngine, record: Any) -> list[asyncio.Task[Any]]:
    """A request that is in a pass."""
    tasks = [asyncio.ensure_future(client.arequest("POST", "/v1/rewards", record))]
    await asyncio.to_thread(engine.wait_for_pass)
    return tasks


def test_without_a_key_only_probes_are_answered(model: RewardModel) -> None:
    client = AsgiClient(app(model, ServerOptions(api_keys=("one", "two"))))
    for path in ("/health", "/ready", "/ping"):
        assert client.get(path).status == 200
    for headers in ({}, {"Authorization": "Bearer three"}, {"X-Api-Key": ""}, {"Authorization": "one"}):
        answer = client.post("/v1/rewards", IDS, headers=headers)
        assert answer.status == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/metrics", headers=headers).status == 401
    for headers in ({"Authorization": "Bearer one"}, {"authorization": "bearer two"}, {"X-Api-Key": "two"}):
        assert client.post("/v1/rewards", IDS, headers=headers).status == 200
    client.close()


def test_a_key_that_nobody_asked_for_is_no_fault(client: AsgiClient) -> None:
    assert client.post("/v1/rewards", IDS, headers={"Authorization": "Bearer fake"}).status == 200


def test_bodies_that_are_too_large_or_too_deep(model: RewardModel) -> None:
    client = AsgiClient(app(model, ServerOptions(max_body=1024, max_depth=8)))
    large = json.dumps({"text": "a" * 2000}).encode()
    for headers in ({}, {"Content-Length": str(len(large))}):
        answer = client.post("/v1/rewards", body=large, headers=headers)
        assert answer.status == 413 and answer.json()["error"]["kind"] == "too_large"
    for depth in (9, 500):
        assert client.post("/v1/rewards", body=b"[" * depth + b"]" * depth).status == 413
    client.close()
    deep = AsgiClient(app(model))
    assert deep.post("/v1/rewards", body=b"[" * 1_000_000).status in (400, 413)
    deep.close()


def test_a_compressed_body_is_refused(client: AsgiClient) -> None:
    assert client.post("/v1/rewards", IDS, headers={"Content-Encoding": "gzip"}).status == 400


def test_several_bundles_are_told_apart_by_name(model: RewardModel, label_model: RewardModel) -> None:
    client = AsgiClient(app({"judge": model, "labels": label_model}))
    assert client.post("/v1/rewards", IDS).json()["model"]["name"] == "judge"
    assert "rewards" in client.post("/v1/rewards", {**IDS, "model": "labels"}).json()["result"]
    unknown = client.post("/v1/rewards", {**IDS, "model": "other"})
    assert unknown.status == 404 and "judge, labels" in unknown.json()["error"]["message"]
    client.close()


def test_a_client_that_goes_has_its_records_taken_back(held: tuple[AsgiClient, GatedEngine]) -> None:
    client, engine = held

    async def scenario() -> None:
        [first] = await waiting(client, engine, IDS)
        gone = asyncio.Event()
        second = asyncio.ensure_future(client.arequest("POST", "/v1/rewards", IDS, gone=gone))
        model = client.application.service.models["default"].model
        await asyncio.to_thread(wait_until, lambda: model.waiting_tokens == 6)
        gone.set()
        assert (await second).status == 0
        assert model.waiting_tokens == 0
        engine.permit()
        assert (await first).status == 200

    client.run(scenario())
    assert len(engine.passes) == 1
    assert 'status="499"' in client.get("/metrics").body.decode()


def test_a_full_queue_says_when_to_come_back(held: tuple[AsgiClient, GatedEngine]) -> None:
    client, engine = held

    async def scenario() -> None:
        tasks = await waiting(client, engine, IDS)
        tasks += [asyncio.ensure_future(client.arequest("POST", "/v1/rewards", IDS)) for _ in range(3)]
        model = client.application.service.models["default"].model
        await asyncio.to_thread(wait_until, lambda: model.waiting_tokens == 18)
        refused = await client.arequest("POST", "/v1/rewards", IDS)
        assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["kind"] == "overloaded"
        engine.permit(100)
        assert [(await task).status for task in tasks] == [200] * 4

    client.run(scenario())


def test_a_call_with_more_than_the_queue_has_space_for_is_scored(held: tuple[AsgiClient, GatedEngine]) -> None:
    client, engine = held
    engine.permit(1000)
    records = [{"input_ids": [5 + n % 9, 6, 7, 8, 9]} for n in range(200)]
    answer = client.post("/v1/rewards", {"records": records})
    assert answer.status == 200
    results = answer.json()["results"]
    assert len(results) == 200
    first = client.post("/v1/rewards", {"records": records[:9]}).json()["results"]
    assert [result["score"] for result in results] == [first[n % 9]["score"] for n in range(200)]


def test_a_call_with_many_records_leaves_half_of_the_queue_to_others(held: tuple[AsgiClient, GatedEngine]) -> None:
    client, engine = held

    async def scenario() -> None:
        [first] = await waiting(client, engine, IDS)
        records = [{"input_ids": [5, 6, 7]} for _ in range(50)]
        many = asyncio.ensure_future(client.arequest("POST", "/v1/rewards", {"records": records}))
        model = client.application.service.models["default"].model
        await asyncio.to_thread(wait_until, lambda: model.waiting_tokens > 10)
        other = asyncio.ensure_future(client.arequest("POST", "/v1/rewards", IDS))
        await asyncio.to_thread(wait_until, lambda: model.waiting_tokens == 18)
        engine.permit(1000)
        assert [(await task).status for task in (first, many, other)] == [200] * 3

    client.run(scenario())


def test_a_deadline_that_passes(held: tuple[AsgiClient, GatedEngine]) -> None:
    client, engine = held

    async def scenario() -> None:
        [first] = await waiting(client, engine, IDS)
        late = await client.arequest("POST", "/v1/rewards", IDS, headers={"X-Request-Timeout-Ms": "1"})
        assert late.status == 504 and late.json()["error"]["kind"] == "deadline"
        engine.permit()
        assert (await first).status == 200

    client.run(scenario())
    assert client.post("/v1/rewards", IDS, headers={"X-Request-Timeout-Ms": "soon"}).status == 400


def test_an_engine_that_fails_is_no_score(held: tuple[AsgiClient, GatedEngine]) -> None:
    client, engine = held
    engine.faults[0] = RuntimeError("the engine broke: secret")
    engine.permit(10)
    answer = client.post("/v1/rewards", IDS)
    assert answer.status == 500 and "score" not in answer.json()


def test_a_bundle_is_replaced_without_losing_a_request(classifier_bundle: Path) -> None:
    old, engine = gated_model(classifier_bundle)
    served = ServedModel("judge", old)
    client = AsgiClient(Application(Service([served])))

    async def scenario() -> None:
        [first] = await waiting(client, engine, IDS)
        with RewardModel.load(classifier_bundle, device="ort-cpu") as new:
            served.replace(new)
            second = await client.arequest("POST", "/v1/rewards", IDS)  # the old one still computes
            assert second.status == 200 and len(engine.passes) == 1
            engine.permit()
            assert (await first).json() == second.json() | {"usage": (await first).json()["usage"]}
            await asyncio.to_thread(wait_until, lambda: _is_closed(old))

    client.run(scenario())
    client.close()


def test_sessions_of_a_replaced_bundle_are_not_there(classifier_bundle: Path) -> None:
    served = ServedModel("judge", RewardModel.load(classifier_bundle, device="ort-cpu"))
    client = AsgiClient(Application(Service([served])))
    session = client.post("/v1/sessions", {"prompt": "What?"}).json()["session"]
    assert client.post(f"/v1/sessions/{session}/append", {"text": "One."}).status == 200
    with RewardModel.load(classifier_bundle, device="ort-cpu") as new:
        served.replace(new)
        assert client.post(f"/v1/sessions/{session}/append", {"text": "Two."}).status == 404
        assert client.post("/v1/sessions", {"prompt": "What?"}).status == 200
    client.close()


def test_many_clients_some_of_which_go(client: AsgiClient, model: RewardModel) -> None:
    """Each that stays has one answer, its own; the others have none."""
    dice = random.Random(0)
    records = [{"input_ids": [dice.randrange(5, 40) for _ in range(dice.randrange(1, 30))]} for _ in range(300)]
    expected = [score.value for score in model.score(records)]

    async def one(number: int) -> tuple[int, Any]:
        gone = asyncio.Event()
        if number % 3 == 0:
            asyncio.get_running_loop().call_later(dice.random() / 50, gone.set)
        headers = {"X-Request-Id": str(number)}
        return number, await client.arequest("POST", "/v1/rewards", records[number], headers=headers, gone=gone)

    async def scenario() -> list[tuple[int, Any]]:
        return await asyncio.gather(*map(one, range(300)))

    for number, answer in client.run(scenario()):
        if answer.status == 0:
            assert number % 3 == 0
        else:
            assert answer.status == 200 and answer.headers["x-request-id"] == str(number)
            assert answer.json()["result"]["score"] == expected[number]
    assert client.application.service.observer.in_flight == 0


def _is_closed(model: RewardModel) -> bool:
    try:
        model.submit(IDS)
    except Exception as error:
        return "closed" in str(error)
    return False


def test_web_pages_of_other_origins_are_let_in_only_where_the_options_say_so(model: RewardModel) -> None:
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    client = AsgiClient(app(model))
    assert client.request("OPTIONS", "/v1/rewards", headers=headers).status == 405
    assert "access-control-allow-origin" not in client.post("/v1/rewards", IDS, headers=headers).headers
    client.close()
    client = AsgiClient(app(model, ServerOptions(cors=("https://a.example",), api_keys=("k",))))
    asked = client.request("OPTIONS", "/v1/rewards", headers=headers)
    assert asked.status == 204 and "authorization" in asked.headers["access-control-allow-headers"]
    for answer in (asked, client.post("/v1/rewards", IDS, headers=headers)):  # also of an error
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
    other = client.request("OPTIONS", "/v1/rewards", headers={**headers, "Origin": "https://b.example"})
    assert other.status == 403
    client.close()


def test_mounted_below_a_path(model: RewardModel) -> None:
    client = AsgiClient(app(model), root_path="/judge")
    assert client.post("/v1/rewards", IDS).status == 200
    client.close()


def test_the_log_has_no_text_and_probes_no_line(client: AsgiClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "rmruntime.serve"):
        client.get("/health")
        client.post("/v1/rewards", {"text": "a secret text"}, headers={"X-Request-Id": "mine"})
    [line] = [json.loads(record.getMessage()) for record in caplog.records]
    assert line["request"] == "mine" and line["status"] == 200 and line["records"] == 1
    assert line["tokens"]["given"] > 0 and "secret" not in str(line)


def test_an_unexpected_fault_is_logged_and_not_told(model: RewardModel, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: object, service: object) -> Answer:
        raise KeyError("a secret")

    protocol = Protocol(name="broken", routes=(Route("POST", "/broken", broken),), error_body=own_error_body)
    client = AsgiClient(app(model, protocols=[protocol]))
    answer = client.post("/broken", {})
    assert answer.status == 500 and b"secret" not in answer.body
    assert "secret" in caplog.text
    client.close()


def test_a_request_id_that_is_no_plain_text_is_replaced(client: AsgiClient) -> None:
    answer = client.post("/v1/rewards", IDS, headers={"X-Request-Id": "a b\n"})
    assert len(answer.headers["x-request-id"]) == 16


def test_a_server_that_ends_is_not_ready(client: AsgiClient) -> None:
    client.application.service.draining = True
    assert client.get("/ready").status == 503 and client.get("/health").status == 200
    assert client.post("/v1/rewards", IDS).status == 200


def test_lifespan(client: AsgiClient) -> None:
    messages, sent = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}], []

    async def receive() -> dict[str, str]:
        return messages.pop(0)

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    client.run(client.application({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
