"""vLLM is called as its careful user would call it, in process and over HTTP; the engine itself is a fake."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_vllm import FakeLLM, fake_server_package, fake_vllm
from rmexport.bench.peers import file_of, peers
from rmexport.bench.worker.scorer import LoadOptions, Request
from rmexport.bench.worker_process import WorkerProcess
from rmexport.errors import ContestantError

OPTIONS = LoadOptions(label=1, longest=7)
REQUESTS = [Request([[1, 2, 3], [1, 2, 5, 6]]), Request([[4]])]


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm())
    return peers()["vllm"].load("folder", "bf16", 2, OPTIONS)


def test_raw_scores_of_token_ids_and_what_the_prefix_cache_saved(scorer: Any) -> None:
    for _ in range(2):  # what the first pass leaves in the cache must not be found by the second
        scorer.reset()
        scores = scorer.score(REQUESTS)
        assert scores.values == [6.0, 14.0, 4.0] and (scores.computed, scores.padded) == (8 - 2, 0)


def test_the_engine_is_given_what_the_workload_needs_and_keeps_its_own_choices(scorer: Any) -> None:
    assert FakeLLM.made == {
        "model": "folder", "runner": "pooling", "dtype": "bfloat16", "enable_prefix_caching": True,
        "max_model_len": 7, "kv_cache_memory_bytes": 4 << 30, "block_size": 32,
    }  # fmt: skip
    assert "max_model_len=7" in scorer.settings and scorer.budget == 4096


def test_on_a_gpu_the_size_of_the_cache_is_vllms_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", fake_vllm())
    peers()["vllm"].load("folder", "fp16", 0, LoadOptions(device="cuda"))
    assert FakeLLM.made.keys() == {"model", "runner", "dtype", "enable_prefix_caching"}


def test_a_cache_that_stays_is_an_error(scorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLLM, "busy", True)
    with pytest.raises(RuntimeError, match="did not empty"):
        scorer.reset()


@pytest.mark.parametrize("name", ["vllm", "vllm-serve"])
def test_the_process_has_as_many_threads_as_asked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "lib" / "libiomp5.so"
    library.parent.mkdir()
    library.touch()
    python = str(tmp_path / "bin" / "python")
    module: Any = peers()[name]
    for variable in ("OMP_NUM_THREADS", "LD_PRELOAD", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    found = module.environment(python, 3)
    assert found["OMP_NUM_THREADS"] == "3" and found["HF_HUB_OFFLINE"] == "1"
    assert found["LD_PRELOAD"].split(":")[0] == str(library)
    assert 1 <= int(module.environment(python, 0)["OMP_NUM_THREADS"]) <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("LD_PRELOAD", "mine.so")
    assert module.environment(python, 0).keys().isdisjoint({"OMP_NUM_THREADS", "LD_PRELOAD"})
    assert module.environment(python, 2)["OMP_NUM_THREADS"] == "2"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """Starts vllm-serve in a worker on a checkpoint folder with this config."""
    started = []

    def start(config: str = "{}") -> WorkerProcess:
        (tmp_path / "config.json").write_text(config)
        path = {"PYTHONPATH": str(fake_server_package(tmp_path / "packages"))}
        worker = WorkerProcess(sys.executable, file_of(peers()["vllm-serve"]), 600.0, path)
        started.append(worker)
        worker.ask("load", folder=str(tmp_path), dtype="fp32", threads=0, options=vars(OPTIONS))
        return worker

    yield start
    for worker in started:
        worker.close()


def given(*requests: list[list[int]]) -> list[dict[str, Any]]:
    return [{"sequences": request, "records": []} for request in requests]


def test_the_server_scores_passes_and_arrivals(server: Any) -> None:
    worker = server()
    worker.ask("workload", requests=given([[1, 2], [3]], [[4, 5]]))
    assert worker.ask("offline")["scores"] == [3.0, 3.0, 9.0]
    served = worker.ask("server", rate=200.0, duration_s=0.1, drain_s=600.0, seed=0)
    assert served["arrivals"] == len(served["samples"]) and served["unfinished"] == 0
    assert all(done > at for at, done in served["samples"])


def test_what_the_server_refuses_is_said(server: Any) -> None:
    worker = server()
    worker.ask("workload", requests=given([[0]]))
    for do, more in (("offline", {}), ("server", {"rate": 50.0, "duration_s": 0.1, "drain_s": 600.0, "seed": 0})):
        with pytest.raises(ContestantError, match=r"answered 400.*refused"):
            worker.ask(do, **more)


def test_a_server_that_does_not_start_is_said(server: Any) -> None:
    with pytest.raises(ContestantError, match="ended with status 7: no such engine"):
        server("--broken")
