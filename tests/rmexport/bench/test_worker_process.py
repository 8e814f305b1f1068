"""The protocol with a contestant's process: replies, chatter, crashes, silence."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_peers import fake_peer
from rmexport.bench.worker.scorer import LoadOptions
from rmexport.bench.worker_process import WorkerProcess
from rmexport.errors import ContestantError

REQUESTS = [{"sequences": [[1, 2], [3]], "records": []}, {"sequences": [[4, 5]], "records": []}]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started = []

    def start(action: str, timeout_s: float = 600.0) -> WorkerProcess:
        worker = WorkerProcess(sys.executable, fake_peer(tmp_path, action), timeout_s)
        started.append(worker)
        worker.ask("load", folder="", dtype="fp32", threads=0, options=vars(LoadOptions()))
        worker.ask("workload", requests=REQUESTS)
        return worker

    yield start
    for worker in started:
        worker.close()


def test_scores_and_times_come_back_whatever_the_engine_prints(start: Any) -> None:
    worker = start("sums")
    reply = worker.ask("offline")
    assert reply["scores"] == [3.0, 3.0, 9.0] and reply["seconds"] > 0 and reply["computed"] == 1
    assert len(worker.ask("single", order=[0, 1, 1], limit_s=600)["latency_ms"]) == 3
    assert len(worker.ask("single", order=[0, 1, 1], limit_s=0)["latency_ms"]) == 1
    warm = worker.ask("warm_up", order=[0, 1], window=3, limit_s=600)
    assert 2 <= len(warm["p50_ms"]) <= 5
    served = worker.ask("server", rate=200.0, duration_s=0.1, drain_s=600.0, seed=0)
    assert served["arrivals"] == len(served["samples"]) and all(done > at for at, done in served["samples"])
    assert worker.memory.resident >= worker.memory.anonymous > 0


def test_what_is_not_installed_is_said(tmp_path: Path) -> None:
    worker = WorkerProcess(sys.executable, fake_peer(tmp_path, "sums", ("json", "no_such.package")), 60.0)
    try:
        assert worker.ask("hello")["missing"] == ["no_such.package"]
    finally:
        worker.close()


def test_the_worker_needs_neither_rmexport_nor_numpy(tmp_path: Path) -> None:
    """Its imports alone, in an interpreter without site-packages."""
    import subprocess

    from rmexport.bench.worker_process import WORKER

    command = [sys.executable, "-S", "-E", str(WORKER), str(fake_peer(tmp_path, "sums"))]
    found = subprocess.run(command, input='{"do": "hello", "with": {}}\n', capture_output=True, text=True, check=False)
    assert found.returncode == 0 and '"missing": []' in found.stdout, found.stderr


def test_an_engine_that_raises_says_why_and_lives(start: Any) -> None:
    worker = start("refuse")
    for _ in range(2):
        with pytest.raises(ContestantError, match="RuntimeError: no more"):
            worker.ask("offline")


def test_a_crash_is_reported_with_the_last_words(start: Any) -> None:
    with pytest.raises(ContestantError, match=r"(?s)ended with status 3: .*a last word"):
        start("crash").ask("offline")


def test_a_kill_is_reported(start: Any) -> None:
    worker = start("killed")
    with pytest.raises(ContestantError, match="SIGKILL"):
        worker.ask("offline")
    with pytest.raises(ContestantError):
        worker.ask("offline")


def test_silence_ends(start: Any) -> None:
    worker = start("hang")
    worker._timeout_s = 1.0  # not before it has been loaded, which may take longer
    with pytest.raises(ContestantError, match="no answer to 'offline' within 1 s"):
        worker.ask("offline")


def test_nan_is_no_score(start: Any) -> None:
    assert start("nan").ask("offline")["scores"] == [None, 3.0, 9.0]


def test_a_python_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ContestantError, match="cannot be started"):
        WorkerProcess(str(tmp_path / "python"), fake_peer(tmp_path, "sums"), 1.0)
