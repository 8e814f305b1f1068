"""The example of a web service: concurrent clients, every kind of answer, and a clean end."""

import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rmexport import export
from rmruntime import RewardModel, Score
from tiny_checkpoints import sequence_classifier

SCRIPT = Path(__file__).parent.parent / "examples" / "embed_in_a_service.py"
PATIENCE = 60  # seconds until a test gives up waiting for what never comes
RECORDS = [{"prompt": "What?", "response": f"It is {number}. " * number} for number in range(1, 9)]


@pytest.fixture(scope="module")
def bundle(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    def make(folder: Path) -> None:
        export(str(sequence_classifier(folder / "c").folder), folder / "b")

    return made_once("queue-classifier", make) / "b"


@pytest.fixture
def service(bundle: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and the port that it listens on."""
    command = [sys.executable, str(SCRIPT), str(bundle), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline().rpartition(":")[2])
        process.kill()


def asked(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, body if isinstance(body, str) else json.dumps(body))
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_clients_get_their_scores_and_errors_and_the_service_ends(
    service: tuple[subprocess.Popen[str], int], bundle: Path
) -> None:
    process, port = service
    with RewardModel.load(bundle) as model:
        expected = model.score(RECORDS)
    with ThreadPoolExecutor(len(RECORDS)) as pool:
        answers = list(pool.map(lambda record: asked(port, "POST", "/score", record), RECORDS))
    assert [status for status, _ in answers] == [200] * len(RECORDS)
    for (_, body), score in zip(answers, expected, strict=True):
        assert isinstance(score, Score) and body["scores"]["value"] == score.value
    status, body = asked(port, "POST", "/score", {"prompt": "What?", "chosen": "a", "rejected": "b"})
    assert status == 200 and len(body["scores"]) == 2

    assert [
        asked(port, *one)[0] for one in (("GET", "/"), ("POST", "/score", "{"), ("POST", "/score", {"text": 5}))
    ] == [
        404,
        400,
        400,
    ]
    status, health = asked(port, "GET", "/health")
    assert status == 200 and health["sequences"] == len(RECORDS) + 2 and health["waiting_tokens"] == 0

    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "") and out.startswith("Statistics(sequences=10, ")
