"""/metrics and /load."""

from asgi_client import AsgiClient


def values_of(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_what_was_answered_is_counted(client: AsgiClient) -> None:
    client.post("/v1/rewards", {"records": [{"text": "Hello"}, {"input_ids": [5, 6, 7]}]})
    client.post("/v1/rewards", {"text": 5})
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = values_of(answer.body.decode())
    assert found['rmruntime_requests_total{route="/v1/rewards",protocol="rewards",status="200"}'] == 1
    assert found['rmruntime_requests_total{route="/v1/rewards",protocol="rewards",status="400"}'] == 1
    assert found['rmruntime_phase_seconds_count{phase="score"}'] >= 1
    assert found["rmruntime_request_records_sum"] >= 2
    assert found['rmruntime_queue_tokens{model="default"}'] == 0
    assert found["rmruntime_resident_bytes"] > 1 << 20
    given = found['rmruntime_tokens_total{kind="given"}']
    assert given == found['rmruntime_tokens_total{kind="computed"}'] + found['rmruntime_tokens_total{kind="cached"}']


def test_every_metric_has_a_help_and_a_type(client: AsgiClient) -> None:
    client.post("/v1/rewards", {"text": "Hello"})
    text = client.get("/metrics").body.decode()
    described = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    for name in values_of(text):
        own = name.partition("{")[0]
        assert own in described or own.rpartition("_")[0] in described, name


def test_load_counts_other_requests(client: AsgiClient) -> None:
    assert client.get("/load").json() == {"server_load": 0}
