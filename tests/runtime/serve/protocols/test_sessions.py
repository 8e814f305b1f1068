"""Sessions over HTTP: their scores are those of the whole, and calls that do not fit each other are told apart."""

import asyncio
import json
from typing import Any

from asgi_client import AsgiClient
from rmruntime import RewardModel
from rmruntime.serve import ServerOptions, app

PROMPT = "What?"


def opened(client: AsgiClient, **more: Any) -> str:
    answer = client.post("/v1/sessions", {"prompt": PROMPT, **more})
    assert answer.status == 200, answer.body
    identity: str = answer.json()["session"]
    return identity


def steps_of(model: RewardModel, *steps: str) -> list[float]:
    return list(model.score_steps(PROMPT, steps).steps or ())


def test_appended_steps_have_the_scores_of_the_whole(steps_client: AsgiClient, step_model: RewardModel) -> None:
    session = opened(steps_client)
    first = steps_client.post(f"/v1/sessions/{session}/append", {"text": "One."}).json()
    assert first["steps"] == steps_of(step_model, "One.")
    second = steps_client.post(f"/v1/sessions/{session}/append", {"steps": ["Two.", "Three."]}).json()
    whole = steps_of(step_model, "One.", "Two.", "Three.")
    assert second["steps"] == whole[1:]
    assert second["tokens"] == step_model.score_steps(PROMPT, ["One.", "Two.", "Three."]).tokens
    score = steps_client.post(f"/v1/sessions/{session}/score", {}).json()
    assert (
        score["steps"] == whole and score["score"] == step_model.score_steps(PROMPT, ["One.", "Two.", "Three."]).value
    )
    assert second["usage"]["computed_tokens"] > 0 == score["usage"]["tokens"]
    assert steps_client.get(f"/v1/sessions/{session}").json()["steps"] == 3


def test_a_peek_leaves_the_session_as_it_is(client: AsgiClient, model: RewardModel) -> None:
    """Of a model that judges answers."""
    session = opened(client, steps=["Hello"])
    peeked = client.post(f"/v1/sessions/{session}/score", {"text": " world."}).json()
    whole = model.score_steps(PROMPT, ["Hello", " world."])
    assert peeked["steps"] == list(whole.steps or ()) and peeked["score"] == (whole.steps or ())[-1]
    assert client.get(f"/v1/sessions/{session}").json()["steps"] == 1


def test_forks_go_their_own_way_and_steps_are_taken_back(steps_client: AsgiClient, step_model: RewardModel) -> None:
    session = opened(steps_client, steps=["One."])
    left, right = steps_client.post(f"/v1/sessions/{session}/fork", {"n": 2}).json()["sessions"]
    found = steps_client.post(f"/v1/sessions/{left}/append", {"text": "Two."}).json()
    assert found["steps"] == steps_of(step_model, "One.", "Two.")[1:]
    assert steps_client.get(f"/v1/sessions/{right}").json()["steps"] == 1
    assert steps_client.post(f"/v1/sessions/{left}/rollback", {"count": 2}).json() == {"steps": 0}
    assert steps_client.post(f"/v1/sessions/{left}/rollback", {"count": 2}).status == 400


def test_many_operations_in_one_request(steps_client: AsgiClient, step_model: RewardModel) -> None:
    sessions = [opened(steps_client) for _ in range(3)]
    operations: list[dict[str, Any]] = [
        {"op": "append", "session": session, "text": text}
        for session, text in zip(sessions, ("One.", "Two.", "Three."), strict=True)
    ]
    operations += [
        {"op": "append", "session": "s_gone", "text": "One."},
        {"op": "append", "session": sessions[0], "text": "Two."},
        {"op": "score", "session": sessions[1]},
        {"op": "close", "session": sessions[2]},
        {"op": "dance", "session": sessions[1]},
        {"op": "append", "session": sessions[1]},
    ]
    results = steps_client.post("/v1/sessions:batch", {"ops": operations}).json()["results"]
    assert [found["steps"] for found in results[:3]] == [
        steps_of(step_model, text) for text in ("One.", "Two.", "Three.")
    ]
    assert results[3]["error"]["kind"] == "unknown_session"
    assert results[4]["steps"] == steps_of(step_model, "One.", "Two.")[1:]
    assert results[5]["steps"] == steps_of(step_model, "Two.")
    assert results[6] == {}
    assert [found["error"]["kind"] for found in results[7:]] == ["malformed", "malformed"]
    assert steps_client.get(f"/v1/sessions/{sessions[2]}").status == 404


def test_sessions_that_are_not_there(steps_client: AsgiClient) -> None:
    session = opened(steps_client)
    assert steps_client.request("DELETE", f"/v1/sessions/{session}").status == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/append"), ("POST", "/fork")):
        answer = steps_client.request(method, f"/v1/sessions/{session}{path}", {"text": "One."})
        assert answer.status == 404 and answer.json()["error"]["kind"] == "unknown_session"
    assert steps_client.post(f"/v1/sessions/{opened(steps_client)}/dance", {}).status == 404


def test_a_session_that_is_not_used_ends(step_model: RewardModel) -> None:
    client = AsgiClient(app(step_model, ServerOptions(session_ttl=0.001)))
    session = opened(client)
    client.run(asyncio.sleep(0.01))
    assert client.get(f"/v1/sessions/{session}").status == 404
    client.close()


def test_the_session_that_was_not_used_for_longest_makes_space(step_model: RewardModel) -> None:
    client = AsgiClient(app(step_model, ServerOptions(max_sessions=2)))
    first, second = opened(client), opened(client)
    client.post(f"/v1/sessions/{first}/append", {"text": "One."})
    third = opened(client)
    assert [client.get(f"/v1/sessions/{one}").status for one in (first, second, third)] == [200, 404, 200]
    client.close()


def test_more_forks_than_there_may_be_sessions(step_model: RewardModel) -> None:
    client = AsgiClient(app(step_model, ServerOptions(max_sessions=4)))
    session = opened(client)
    assert client.post(f"/v1/sessions/{session}/fork", {"n": 4}).status == 400
    forks = client.post(f"/v1/sessions/{session}/fork", {"n": 3}).json()["sessions"]
    assert [client.get(f"/v1/sessions/{one}").status for one in (session, *forks)] == [200] * 4
    client.close()


def test_two_calls_on_one_session(steps_client: AsgiClient) -> None:
    session = opened(steps_client)

    async def both() -> list[Any]:
        calls = [steps_client.arequest("POST", f"/v1/sessions/{session}/append", {"text": "One."}) for _ in range(2)]
        return await asyncio.gather(*calls)

    statuses = [answer.status for answer in steps_client.run(both())]
    assert sorted(statuses) == [200, 409]


def test_what_cannot_be_opened(steps_client: AsgiClient) -> None:
    for fields in ({}, {"prompt": 5}, {"prompt": "What?", "ttl_s": 0}, {"prompt": "What?", "steps": "One."}):
        answer = steps_client.post("/v1/sessions", body=json.dumps(fields).encode())
        assert answer.status == 400, fields


def test_answers_say_which_process_has_the_session(steps_client: AsgiClient) -> None:
    answer = steps_client.post("/v1/sessions", {"prompt": PROMPT})
    again = steps_client.get(f"/v1/sessions/{answer.json()['session']}")
    assert answer.headers["x-session-affinity"] == again.headers["x-session-affinity"]
