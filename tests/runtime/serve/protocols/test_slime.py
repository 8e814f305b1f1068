"""slime's remote reward: the body of the answer is a number, and of an error never one."""

from asgi_client import AsgiClient
from rmruntime import RewardModel


def test_the_body_is_the_reward(client: AsgiClient, model: RewardModel) -> None:
    [score] = model.score([{"text": "What? Hello world."}])
    answer = client.post("/slime", {"prompt": "What? ", "response": "Hello world.", "label": {"answer": 5}})
    assert answer.status == 200
    assert answer.json() == score.value and isinstance(answer.json(), float)


def test_messages_go_through_the_template(client: AsgiClient, model: RewardModel) -> None:
    messages = [{"role": "user", "content": "What?"}]
    [score] = model.score([{"prompt": messages, "response": "Hello world."}])
    [plain] = model.score([{"text": "What?Hello world."}])
    found = client.post("/slime", {"prompt": messages, "response": "Hello world.", "label": None}).json()
    assert found == score.value != plain.value


def test_a_process_reward_models_steps_are_one_number(steps_client: AsgiClient, step_model: RewardModel) -> None:
    [score] = step_model.score([{"text": "What? One. ки\nTwo. ки"}])
    assert steps_client.post("/slime", {"prompt": "What? ", "response": "One. ки\nTwo. ки"}).json() == score.value


def test_an_error_is_no_number(client: AsgiClient, labels_client: AsgiClient) -> None:
    for fields in ({}, {"prompt": "a"}, {"prompt": 5, "response": "a"}, {"prompt": [5], "response": "a"}):
        answer = client.post("/slime", fields)
        assert answer.status == 400 and answer.json()["error"]["message"]
    without = labels_client.post("/slime", {"prompt": "What?", "response": "a"})
    assert without.status == 400 and "no single score" in without.json()["error"]["message"]
