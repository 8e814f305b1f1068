"""bench_gpu.py: what it refuses, how contestants are measured, what the table judges, and a small run on the CPU."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench_gpu
import pytest
from gpu import make_checkpoint, report, small_models
from gpu.children import Budget, ChildFailed, OutOfTime, TimedWorker, _run, make_importable, run_json
from gpu.contestants import PEER, Contestant, compare, contestants, measure_all
from gpu.plan import FULL, KINDS, RANDOM_MODELS, SMOKE
from gpu.workloads import Workload

from fake_peers import fake_peer
from rmexport.cli import _parser
from rmruntime.errors import EngineUnusable

SUMS = Workload("ragged", "offline", (([1, 2],), ([3],)))
CEILINGS = {"gemm": {"square": 2e12}, "sizes": {"square": [1, 1, 1]}, "best": 2e12, "copy": 1}
SINGLE = Workload("single", "single", (([5, 6],),))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", *arguments])
    for variable in ("PYTHONPATH", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(variable, "")  # restored afterwards
    return bench_gpu.main()


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> None:
        raise EngineUnusable("no NVIDIA driver was found")

    monkeypatch.setattr("gpu.device.find_devices", none)
    assert run(monkeypatch, "--work", str(tmp_path / "work"), "--sections", "probes,load") == 2
    error = capsys.readouterr().err
    assert "probes, load need a GPU: no NVIDIA driver was found" in error and "--smoke" in error
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sections", "probes,speed"], "--sections has speed"),
        (["--smoke", "--json", str(bench_gpu.RESULTS / "gpu.json")], "nothing that belongs into results"),
    ],
)
def test_arguments_that_cannot_be_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "--work", str(tmp_path), *arguments)
    assert message in capsys.readouterr().err


def in_process(module: str, arguments: list[str], budget: Budget, accept: tuple[int, ...] = (0,)) -> Any:
    """The checkpoints' process, without one: torch is here already."""
    assert module == "gpu.make_checkpoint"
    work, shape = Path(arguments[arguments.index("--work") + 1]), arguments[arguments.index("--shape") + 1]
    make_checkpoint.write_checkpoints(work, SMOKE.big if shape == "big" else SMOKE.small, "cpu")
    return {"seconds": 0.0}


def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ours on the CPU: sections one at a time, joined in one file."""
    monkeypatch.setattr("gpu.models.run_json", in_process)
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"smoke": True, "ceilings": CEILINGS}))
    arguments = ["--work", str(tmp_path / "work"), "--smoke", "--json", str(file), "--only", "ort-cpu"]
    assert run(monkeypatch, *arguments, "--shape", "8b", "--sections", "throughput") == 0
    assert run(monkeypatch, *arguments, "--shape", "8b", "--sections", "latency,load") == 0
    found = json.loads(file.read_text())
    [record] = found["contestants"]["8b"]
    assert record["status"] == "ok" and set(record["workloads"]) == {"ragged", "best-of", "single"}
    ragged, best_of = record["workloads"]["ragged"], record["workloads"]["best-of"]
    assert ragged["parity"]["same"] and ragged["computed"] == ragged["tokens"] and ragged["batch"] in SMOKE.pass_tokens
    assert best_of["tokens"] == 2 * 3 * 30 and best_of["computed"] == 2 * (24 + 3 * 6)  # a prompt is computed once
    assert len(best_of["scores"]) == 6 and record["workloads"]["single"]["latency_ms"]["count"] == SMOKE.single_samples
    [load] = found["load"]
    assert load["load_s"] > 0 and load["host_after_load"]["resident"] > 0 and load["device_after_load"] is None
    assert found["messages"] == {} and found["flops_per_token"]["8b"] == SMOKE.big.flops_per_token
    printed = capsys.readouterr().out
    assert (
        "8b, ragged: ort-cpu" in printed and "MISS" not in printed and "pass" not in printed.split("measured")[-1][20:]
    )


def test_parity_is_verify_with_the_reference_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every engine, on the trained example in both dtypes and on the big shape; a compiler's no is no failure."""
    asked = []

    def verified(module: str, arguments: list[str], budget: Budget, accept: tuple[int, ...] = (0,)) -> Any:
        if module == "gpu.compile_engine":
            raise ChildFailed("no such GPU")
        given = _parser().parse_args(arguments)  # which ends for an argument that there is not
        asked.append((Path(given.bundle).name, given.device, given.dialect, given.reference_device))
        assert module == "rmexport" and given.json and accept == (0, 1)
        known = dict.fromkeys(("backend", "precision", "dtype", "sequences", "checks", "versions"))
        return {"passed": len(asked) != 2, **known}

    (tmp_path / "work").mkdir()
    for kind in RANDOM_MODELS:  # before transformers is told that everything can be imported
        small_models.write(kind, tmp_path / "work" / f"random-{kind.replace(' ', '-')}")
    monkeypatch.setattr("gpu.models.run_json", in_process)
    monkeypatch.setattr("gpu.parity.run_json", verified)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nvidia" else object())
    file = tmp_path / "gpu.json"
    arguments = ["--work", str(tmp_path / "work"), "--smoke", "--json", str(file), "--sections", "parity,big-parity"]
    assert run(monkeypatch, *arguments) == 1
    bundles = ("armorm-tiny.bf16", "armorm-tiny.fp16", "random-experts.bf16", "random-dynamic-rope.bf16")
    assert asked == [(bundle, "ort-cpu", "ort-cpu", "cpu") for bundle in (*bundles, "8b-armorm.bundle")]
    records = json.loads(file.read_text())["parity"]
    assert [r["passed"] for r in records if not r.get("informative")] == [True, False, True, True, True]
    assert [r.get("message") for r in records if r.get("informative")] == ["no such GPU"] * 4
    assert "4 of 5; failed: armorm-tiny, fp16 on ort-cpu" in capsys.readouterr().out
    asked.clear()
    assert run(monkeypatch, *arguments[:-1], "big-parity") == 1  # what was found of the others stays
    assert len(json.loads(file.read_text())["parity"]) == len(records)
    assert len((tmp_path / "work" / "parity.jsonl").read_text().splitlines()) == SMOKE.conversations


def test_a_spent_budget_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gpu.json"
    arguments = ["--work", str(tmp_path / "work"), "--smoke", "--json", str(file), "--budget-seconds", "0"]
    assert run(monkeypatch, *arguments) == 1
    messages = json.loads(file.read_text())["messages"]
    assert set(messages) == {"probes", "parity", "big-parity", "latency and throughput", "load"}
    assert set(messages.values()) == {"the budget was spent"}


def test_a_failing_section_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise ChildFailed("an engine's last words")

    monkeypatch.setattr("gpu.models.run_json", fail)
    monkeypatch.setattr("bench_gpu.run_json", fail)
    file = tmp_path / "gpu.json"
    arguments = ["--work", str(tmp_path / "work"), "--smoke", "--json", str(file), "--sections", "probes,load"]
    assert run(monkeypatch, *arguments) == 1
    messages = json.loads(file.read_text())["messages"]
    probes = {"ceilings", *(f"probes of {kind}" for kind in KINDS), "probe of tensorrt", "probe of tensorrt_rtx"}
    assert set(messages) == {*probes, "load"} and set(messages.values()) == {"an engine's last words"}
    probed = {"found": [], "library": "x", "reached": None}
    monkeypatch.setattr("bench_gpu.run_json", lambda module, *_: CEILINGS if module == "gpu.ceilings" else probed)
    assert run(monkeypatch, *arguments[:-1], "probes") == 1  # the section that was not run again failed before
    assert set(json.loads(file.read_text())["messages"]) == {"load"}


def test_a_failing_shape_does_not_end_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_big(module: str, arguments: list[str], budget: Budget, accept: tuple[int, ...] = (0,)) -> Any:
        if "small" in arguments:
            raise ChildFailed("no room")
        return in_process(module, arguments, budget)

    monkeypatch.setattr("gpu.models.run_json", only_big)
    monkeypatch.setattr("bench_gpu.run_json", lambda *_: CEILINGS)
    monkeypatch.setattr(
        "bench_gpu.measure_all", lambda *_: iter([contest(1, 1) | {"name": "x", "ours": True, "wall_s": 1}])
    )
    monkeypatch.setattr("bench_gpu.compare", lambda records: None)
    file = tmp_path / "gpu.json"
    arguments = ["--work", str(tmp_path / "work"), "--smoke", "--json", str(file), "--sections", "throughput"]
    assert run(monkeypatch, *arguments) == 1
    found = json.loads(file.read_text())
    assert found["messages"] == {"contestants of 0.6b": "no room"} and set(found["contestants"]) == {"8b"}


def test_figures_of_another_kind_of_run_are_not_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gpu.json"
    file.write_text('{"smoke": false}')
    with pytest.raises(SystemExit, match="of a full run, this is a smoke run"):
        run(monkeypatch, "--work", str(tmp_path / "work"), "--smoke", "--json", str(file))


def entrant(module: Path, **more: Any) -> Contestant:
    return Contestant(
        name=module.stem, module=module, folder=Path(), device="cpu", dtype="fp32", batches=(1, 2), **more
    )


def measured(*chosen: Contestant) -> list[Any]:
    return list(measure_all(list(chosen), [SINGLE, SUMS], SMOKE, Budget(60)))


def test_contestants_are_measured_and_compared(tmp_path: Path) -> None:
    sums, nan = (fake_peer(tmp_path, action) for action in ("sums", "nan"))
    first, second = measured(entrant(sums, ours=True), entrant(nan))
    compare([first, second])
    ragged = first["workloads"]["ragged"]
    assert ragged["scores"] == [3.0, 3.0] and ragged["parity"]["same"] and set(ragged["tried"]) == {1, 2}
    assert ragged["tokens"] == 3 and ragged["tokens_per_s"] == 3 / ragged["seconds"] and ragged["batch"] in (1, 2)
    assert first["workloads"]["single"]["latency_ms"]["count"] == SMOKE.single_samples
    assert second["status"] == "ok" and second["workloads"]["ragged"]["parity"]["same"] is False
    assert ragged["parity"]["reference"] == "sums"


def scored(name: str, *scores: float) -> dict[str, Any]:
    return {"name": name, "precision": "bf16", "workloads": {"ragged": {"scores": list(scores)}, "single": {}}}


def test_scores_are_judged_by_the_peers() -> None:
    """An engine of ours that is wrong must not be what the others are compared with."""
    wrong, right, peer = scored("ort-cuda", 1.0, -1.0), scored("ort-cuda-paged", -1.0, 1.01), scored(PEER, -1.0, 1.0)
    compare([wrong, right])
    assert [r["workloads"]["ragged"]["parity"]["same"] for r in (wrong, right)] == [True, False]
    compare([wrong, right, peer])
    assert [r["workloads"]["ragged"]["parity"]["same"] for r in (wrong, right, peer)] == [False, True, True]


def test_failures_are_records(tmp_path: Path) -> None:
    (tmp_path / "needs").mkdir()
    found = measured(
        entrant(fake_peer(tmp_path, "refuse")),
        entrant(fake_peer(tmp_path, "crash")),
        entrant(fake_peer(tmp_path / "needs", "sums", ("no_such_package",))),
        replace(entrant(fake_peer(tmp_path, "sums")), needs=("no_such_module",)),
    )
    assert [record["status"] for record in found] == ["failed", "failed", "not installed", "not installed"]
    assert "no more" in found[0]["message"] and "a last word" in found[1]["message"]
    assert "no_such_package" in found[2]["message"] and "no_such_module" in found[3]["message"]


def test_who_takes_part() -> None:
    found = contestants(FULL, Path("bundle"), Path("checkpoint"))
    assert [one.name for one in found] == [
        "ort-cuda-paged", "ort-cuda", "transformers-sdpa", "transformers-flash", "transformers-compile",
        "transformers-compile-graphs", "transformers-kv", "vllm",
    ]  # fmt: skip
    assert all(one.module.is_file() for one in found)
    peers = [one for one in found if not one.ours]
    assert {one.dtype for one in peers} == {"bf16"} and {one.device for one in peers} == {"cuda"}


def test_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    (tmp_path / "site" / "nvidia" / "cu13" / "lib").mkdir(parents=True)
    (tmp_path / "site" / "nvidia" / "cudnn" / "include").mkdir(parents=True)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    make_importable()
    folders = os.environ["LD_LIBRARY_PATH"].split(os.pathsep)
    assert str(tmp_path / "site" / "nvidia" / "cu13" / "lib") in folders and folders[-1] == "/before"
    assert not any("include" in folder or "cudnn" in folder for folder in folders if str(tmp_path) in folder)
    with pytest.raises(OutOfTime):
        run_json("gpu.tensorrt_probe", ["json"], Budget(0))
    with pytest.raises(ChildFailed, match=r"exited with 1: .*no_such_module"):
        run_json("gpu.no_such_module", [], Budget(60))
    found = run_json("gpu.tensorrt_probe", ["string"], Budget(60))  # of the standard library, and no TensorRT
    assert found["library"] == "string" and found["reached"] is None and "__version__" in found["message"]
    with pytest.raises(ChildFailed, match=r"platform exited with 0: \w"):  # it prints no JSON
        run_json("platform", [], Budget(60))


def test_what_a_child_started_ends_with_it(tmp_path: Path) -> None:
    """It may hold the device's memory."""
    module = tmp_path / "slow_child.py"
    module.write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "child.wait()\n"
    )
    for seconds in (0.5, 5, 50, 500):  # until it has come so far, on a machine with much else to do
        with pytest.raises(subprocess.TimeoutExpired):
            _run([sys.executable, str(module)], seconds)
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
    state = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    end = time.monotonic() + 600  # a signal takes a moment
    while time.monotonic() < end and state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert time.monotonic() < end


def test_no_contestant_outlives_the_budget(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    process = TimedWorker(tmp_path / "slow.py", Budget(0.3))
    try:
        with pytest.raises(OutOfTime):
            process.ask("hello")
    finally:
        process.close()


def contest(tokens_per_s: float, p50: float, *, same: bool = True, computed: int = 700) -> dict[str, Any]:
    workload = {
        "tokens_per_s": tokens_per_s,
        "batch": 8,
        "tokens": 600,
        "computed": computed,
        "parity": {"same": same, "max_abs": 0.5},
    }
    single = {"latency_ms": {"p50": p50, "p99": 2 * p50}, "tokens": 512}
    return {"status": "ok", "workloads": {"ragged": workload, "best-of": workload, "single": single}}


def results(*, share: float, ratio: float, same: bool = True) -> dict[str, Any]:
    """One engine of ours at `share` of the ceiling and `ratio` times the peer."""
    ceiling, flops = 1e15, 1e10
    ours = contest(share * ceiling / flops, 10.0, same=same) | {"name": "ort-cuda", "ours": True}
    peer = contest(share * ceiling / flops / ratio, 10.0 * ratio) | {"name": "transformers-sdpa", "ours": False}
    parity = [
        {"case": "a", "engine": "b", "passed": True},
        {"case": "a", "engine": "c", "passed": False, "informative": True},
    ]
    load = {"engine": "y", "load_s": 29.0, "first_score_s": 0.5, "bundle_bytes": 16e9}
    load |= {"host_after_load": {"resident": 21e8, "anonymous": 1e9}}
    load |= {"device_after_load": 17e9, "device_after_scoring": 20e9}
    return {
        "smoke": False,
        "flops_per_token": {"8b": flops, "0.6b": flops},
        "contestants": {"8b": [ours, peer], "0.6b": [ours, peer]},
        "ceilings": {"gemm": {"square": ceiling}, "sizes": {"square": [1, 2, 3]}, "best": ceiling, "copy": 1e12},
        "parity": parity,
        "load": [{"engine": "x", "message": "no"}, load],
    }


def verdicts(found: dict[str, Any]) -> dict[str, tuple[str, bool | None]]:
    return {row.what: (row.measured, row.passed) for row in report.rows(found) if row.wanted}


def test_the_table_judges_by_the_targets() -> None:
    good = verdicts(results(share=0.66, ratio=5.5))
    assert good["parity"] == ("1 of 1", True)
    assert good["8b, ragged: share of the Gemm ceiling in real tokens"] == ("66.0%", True)
    assert good["8b, ragged: tokens/s against transformers-sdpa"] == ("5.50x", True)
    assert good["8b, best-of: tokens/s against transformers-sdpa"] == ("5.50x", True)
    assert good["0.6b, one conversation: p50 against transformers-sdpa"] == ("5.50x", True)
    assert good["8b: load from page cache"] == ("29.0 s", True)
    assert good["8b: host memory after loading, resident peak"] == ("2.10 GB", False)
    bad = verdicts(results(share=0.64, ratio=1.2))
    assert [passed for _, passed in bad.values()] == [True, False, False, False, False, True, False]


def test_wrong_scores_are_no_result() -> None:
    found = verdicts(results(share=0.9, ratio=9.0, same=False))
    assert found["8b, ragged: share of the Gemm ceiling in real tokens"] == ("not measured", None)
    assert "WRONG SCORES (0.5)" in report.text(report.rows(results(share=0.9, ratio=9.0, same=False)))


def test_what_of_ours_failed() -> None:
    found = results(share=0.5, ratio=2.0)
    assert report.failures(found) == ["load, x: no"]
    found["parity"][0]["passed"] = False
    found["contestants"]["8b"][0]["status"] = "failed"  # the same record for both shapes
    found["contestants"]["8b"][1]["status"] = "failed"  # a peer's
    assert report.failures(found) == [
        "parity: 0 of 1; failed: a on b", "ort-cuda: failed", "ort-cuda: failed", "load, x: no"
    ]  # fmt: skip
    assert report.failures({}) == []


def test_figures_without_a_target_are_told() -> None:
    text = report.text(report.rows(results(share=0.5, ratio=2.0)))
    assert "load, y (16.0 GB)" in text and "1.00 GB anonymous, 2.10 GB resident, device 17.0 GB, 20.0 GB after" in text
    assert "8b, single: ort-cuda" in text and "p50 10.00 ms, p99 20.00 ms (512 tokens)" in text
    assert "50,000 tokens/s, 50.0% of the ceiling, batch 8, same scores" in text


def test_shared_tokens_are_no_work_done() -> None:
    """A ceiling cannot be passed by leaving work out."""
    found = results(share=0.5, ratio=2.0)
    found["contestants"] = {"8b": [contest(1e5, 1.0, computed=120) | {"name": "x", "ours": True}]}
    text = report.text(report.rows(found))
    assert "8b, best-of: x" in text and "100,000 tokens/s, 20.0% of the ceiling" in text


def test_nothing_measured_is_nothing_judged() -> None:
    found = verdicts({"smoke": False, "flops_per_token": {}})
    assert set(found.values()) == {("not measured", None)} and len(found) == 7


def test_a_smoke_run_judges_scores_alone() -> None:
    found = verdicts(results(share=0.1, ratio=0.1) | {"smoke": True})
    assert {what for what, (_, passed) in found.items() if passed is not None} == {"parity"}
