"""What every protocol must have, over whatever discovery finds."""

import json
import random
from typing import Any

import pytest

from asgi_client import AsgiClient
from rmruntime import RewardModel
from rmruntime.errors import ModuleError
from rmruntime.serve.application import app, error_answer
from rmruntime.serve.http_messages import Answer
from rmruntime.serve.problems import PASSING, STATUSES, Problem, own_error_body
from rmruntime.serve.protocols import find_protocols
from rmruntime.serve.protocols.base import Protocol, Route, has_any
from rmruntime.serve.router import Router

PROTOCOLS = find_protocols()


async def nothing(request: object, service: object) -> Answer:
    return Answer.of_text("nothing")


async def something(request: object, service: object) -> Answer:
    return Answer.of_text("something")


def protocol(name: str, *routes: Route) -> Protocol:
    return Protocol(name=name, routes=routes, error_body=own_error_body)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_problem_has_an_answer(name: str) -> None:
    for kind in STATUSES:
        answer = error_answer(Problem(kind=kind, message="Why.", retry_after=3.2), PROTOCOLS[name])
        assert answer.status >= 400
        assert ("retry-after" in answer.headers) == (kind in PASSING)
        if answer.body:
            json.loads(answer.body)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_body_is_too_strange_for_a_route(name: str, client: AsgiClient) -> None:
    """Each is an answer with a status, and none a fault of the server."""
    bodies = [b"", b"{}", b"[]", b"null", b"5", b'{"input": {}}', b'{"text": [], "records": [[]]}', b"\x00\xff"]
    for route in PROTOCOLS[name].routes:
        for method in route.methods.split():
            for body in bodies:
                answer = client.request(method, route.path.replace("{", "").replace("}", ""), body=body)
                assert answer.status in range(200, 500) or answer.status == 503, (method, route.path, body, answer)


STRANGE: list[Any] = [None, True, 0, -1, 1e308, "", "\ud800", "a", [], {}, [[]], [None], [5], ["a", 5], {"text": 5}]
NAMES = (
    "input messages query queries documents texts text text_1 text_2 data_1 data_2 items item task top_n steps session "
    "op ops n count records prompt prompts response model tokens labels inputs id use_activation encoding_format"
).split()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_fields_are_too_strange_for_a_route(name: str, client: AsgiClient) -> None:
    """Random values in random fields, of a fixed seed."""
    dice = random.Random(name)
    for route in PROTOCOLS[name].routes:
        path = route.path.replace("{", "").replace("}", "")
        for _ in range(60 if route.body == "json" else 1):
            fields = {dice.choice(NAMES): dice.choice(STRANGE) for _ in range(dice.randrange(1, 6))}
            answer = client.request(route.methods.split()[0], path, fields)
            assert answer.status in range(200, 500) or answer.status == 503, (path, fields, answer)


def test_routes_of_all_protocols_are_told_apart() -> None:
    assert Router(PROTOCOLS.values()).routes()


def test_a_path_that_two_protocols_share_goes_by_the_body(model: RewardModel) -> None:
    texts = protocol("texts", Route("POST", "/rerank", nothing, accepts=has_any("texts")))
    rest = protocol("rest", Route("POST", "/rerank", something))
    client = AsgiClient(app(model, protocols=[rest, texts]))
    assert client.post("/rerank", {"texts": ["a"]}).body == b"nothing"
    assert client.post("/rerank", {"documents": ["a"]}).body == b"something"
    client.close()


def test_two_routes_that_could_both_be_meant() -> None:
    with pytest.raises(ModuleError, match="POST /score: found routes of the protocols a and b"):
        Router([protocol("a", Route("POST", "/score", nothing)), protocol("b", Route("POST", "/score", nothing))])
    with pytest.raises(ModuleError, match="reads no JSON"):
        raw = Route("POST", "/score", nothing, body="raw")
        Router([protocol("a", raw), protocol("b", Route("POST", "/score", nothing, accepts=has_any("b")))])
