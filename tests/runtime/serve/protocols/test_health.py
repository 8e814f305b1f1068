"""The probes."""

from asgi_client import AsgiClient
from rmruntime.serve.application import Application
from rmruntime.serve.served_model import ServedModel
from rmruntime.serve.service import Service


def test_a_loaded_model_is_ready(client: AsgiClient) -> None:
    assert client.get("/health").status == 200 and client.get("/health").body == b""
    assert client.get("/ready").json()["ready"] is True
    assert client.get("/version").json()["version"]


def test_a_model_that_is_being_loaded_is_alive_and_not_ready() -> None:
    client = AsgiClient(Application(Service([ServedModel("late")])))
    assert client.get("/health").status == 200
    assert client.get("/ready").status == 503
    refused = client.post("/v1/rewards", {"text": "Hello"})
    assert refused.status == 503 and refused.headers["retry-after"] == "1"
    client.close()
