"""`rmexport bench` as a whole, on the example bundle and with peers that misbehave."""

import importlib.util
import json
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fake_peers import fake_peer
from rmexport import export
from rmexport.bench import contestants, gemm_probe, run, scenarios
from rmexport.bench.gemm_peak import matmul_parameters
from rmexport.bench.options import BenchOptions
from rmexport.bench.worker_process import WorkerProcess
from rmexport.cli import main
from rmruntime.backends.openvino import openvino_core
from rmruntime.bundle import Bundle

EXAMPLES = Path(__file__).parents[3] / "examples"
PEAKS = [{"dtype": "fp32", "flops": 1e12, "shape": [1, 1, 1], "with": "a test"}]
QUICK = ["--requests", "2", "--repeats", "2", "--warmup", "1", "--duration", "0.2", "--device", "ort-cpu"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "example.bundle"
    export(str(EXAMPLES / "armorm-tiny"), folder)
    return folder


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure_gemm_peaks", lambda options: PEAKS)
    monkeypatch.setattr(scenarios, "SETTLE_S", 0.0)


def quick(**more: Any) -> BenchOptions:
    return BenchOptions(
        **{"requests": 2, "repeats": 2, "warmup": 1, "duration_s": 0.2, "device": "ort-cpu", "profile": "ragged"} | more
    )


def contestant(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in report["contestants"] if c["name"] == name)
    return found


def test_all_scenarios_on_a_file_of_pairs(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join((EXAMPLES / "pairs.jsonl").read_text().splitlines(keepends=True)[:3]))
    chosen = [word for name in ("single-stream", "server", "offline") for word in ("--scenario", name)]
    out = tmp_path / "out"
    arguments = ["bench", str(bundle), "--workload", str(pairs), *QUICK, *chosen, "--rate", "20", "--slo-ms", "1e6"]
    assert main([*arguments, "--peer", f"bundle:{bundle}", "--output", str(out)]) == 0
    assert "same scores" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert report["complete"] and report["stopped"] is None and report["workload"]["sequences"] == 6
    assert report["gemm_peak"] == PEAKS[0]
    for one in report["contestants"]:
        single, server, offline = one["scenarios"]
        counts = [len(r["latency_ms"]) for r in single["repeats"]]
        assert len(counts) == 2 and all(1 <= count <= 2 for count in counts)  # one where that takes all of --duration
        assert single["latency_ms"]["count"] == sum(counts)
        assert all(single["split_ms"][part]["mean"] > 0 for part in ("template", "tokenize", "plan", "engine"))
        assert [p["rate"] for p in server["points"]] == [20.0] and server["points"][0]["goodput_per_s"] > 0
        assert offline["conversations_per_s"] == pytest.approx(6 / offline["seconds"])
        assert 0 < offline["computed_tokens"] <= report["workload"]["tokens"] and offline["gemm_share"] > 0
        assert one["peak_bytes"]["resident"] > 1e6 and one["versions"]["onnxruntime"] and one["load_s"] > 0
    assert contestant(report, f"bundle:{bundle}")["parity"]["pairs"] == 3
    assert {c["scenario"] for c in report["comparisons"]} == {"single-stream", "server", "offline"}
    shutil.move(out / "report.html", tmp_path / "first.html")
    assert main(["bench", "--from-json", str(out / "report.json")]) == 0
    assert (out / "report.html").read_text() == (tmp_path / "first.html").read_text()


def test_the_split_adds_up(bundle: Path, tmp_path: Path) -> None:
    report = run.run_bench(bundle, quick(scenarios=("single-stream",)), tmp_path)
    [single] = report["contestants"][0]["scenarios"]
    pairs = []
    for repeat in single["repeats"]:
        parts = [sum(values) for values in zip(*repeat["split_ms"].values(), strict=True)]
        pairs += zip(parts, repeat["latency_ms"], strict=True)
    # Reading the clock around the whole is all that is outside the parts, unless another process comes between.
    assert any(part == pytest.approx(whole, rel=0.05, abs=0.2) for part, whole in pairs)


class Impatient(WorkerProcess):
    """Waits long for all but the peer that hangs: a busy machine may take its time with the others."""

    def __init__(self, python: str, module: Path, timeout_s: float, environment: Mapping[str, str]) -> None:
        super().__init__(python, module, 1.0 if module.stem == "hang" else timeout_s, environment)


def test_bad_peers_are_flagged_and_the_run_goes_on(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "WorkerProcess", Impatient)
    wrong = ("crash", "hang", "nan", "refuse", "sums")
    peers = tuple(str(fake_peer(tmp_path, action)) for action in wrong)
    missing = tmp_path / "missing"
    missing.mkdir()
    peers += (str(fake_peer(missing, "killed", ("no_such_package",))), "transformers", "vllm")
    options = quick(scenarios=("offline",), peers=peers, checkpoint=str(tmp_path))
    report = run.run_bench(bundle, options, tmp_path / "out")
    assert report["complete"] and run.exit_status(report) == 1
    status = {c["name"]: (c["status"], c["message"]) for c in report["contestants"]}
    assert status["rmexport"] == ("ok", None) == status["sums"] == status["nan"]
    assert status["crash"][0] == status["hang"][0] == status["refuse"][0] == "failed"
    assert "a last word" in status["crash"][1] and "within 1 s" in status["hang"][1]
    assert status["killed"][0] == "not installed" and "no_such_package" in status["killed"][1]
    assert status["transformers"][0] == "failed" and "gated_objectives" in status["transformers"][1]
    assert contestant(report, "nan")["parity"]["same"] is contestant(report, "sums")["parity"]["same"] is False
    assert contestant(report, "crash")["parity"] is None
    assert contestant(report, "sums")["scenarios"][0]["conversations_per_s"] > 0


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Interrupts raise KeyboardInterrupt, also in a background job, where the shell has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_run_leaves_a_partial_report(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = fake_peer(tmp_path, "interrupt")
    out = tmp_path / "out"
    arguments = ["bench", str(bundle), "--profile", "ragged", *QUICK, "--checkpoint", str(tmp_path)]
    assert main([*arguments, "--peer", str(peer), "--output", str(out)]) == 130
    report = json.loads((out / "report.json").read_text())
    assert report["complete"] is False and report["stopped"] == "interrupted"
    assert contestant(report, "rmexport")["first_score_s"] > 0
    assert (out / "report.html").is_file() and "interrupted" in capsys.readouterr().out.lower()
    assert [path.name for path in out.iterdir() if "partial" in path.name] == []


def test_our_own_failure_is_status_1(bundle: Path, tmp_path: Path) -> None:
    report = run.run_bench(bundle, quick(device="no-such-device"), tmp_path)
    assert contestant(report, "rmexport")["status"] == "failed" and run.exit_status(report) == 1
    assert "no-such-device" in contestant(report, "rmexport")["message"] and report["complete"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--profile", "no-such"], "expected one of"),
        (["--peer", "transfomers"], "'transfomers' is unknown"),
        (["--peer", "transformers"], "--checkpoint is None"),
        (["--peer", "transformers:int3", "--checkpoint", "."], "found the dtype 'int3'"),
        (["--peer", "bundle:/nowhere"], "not a bundle"),
        (["--peer-python", "vllm=/usr/bin/env"], "expected the name of a --peer"),
        (["--peer-python", "vllm"], "expected NAME=PATH"),
        (["--peer", "vllm", "--peer-python", "vllm=/nowhere", "--checkpoint", "."], "no such file"),
        (["--rate", "0"], "--rate is 0.0"),
        (["--scenario", "multi-stream"], "--scenario is 'multi-stream'"),
        (["--workload", "/nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    bundle: Path, tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(bundle), *arguments, "--output", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_bundle_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 2 and "found no BUNDLE" in capsys.readouterr().err


def test_matmul_parameters_are_the_layers_matrices(bundle: Path) -> None:
    config = json.loads((EXAMPLES / "armorm-tiny" / "config.json").read_text())
    hidden, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    attention = 2 * hidden * heads * size + 2 * hidden * config["num_key_value_heads"] * size
    assert matmul_parameters(Bundle.open(bundle)) == config["num_hidden_layers"] * (attention + 3 * hidden * inner)


def test_the_probe_times_both_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm_probe, "SHAPE", (16, 32, 32))
    if importlib.util.find_spec("openvino") is not None:  # the probe's own Core must end with its process, not before
        core = openvino_core()
        monkeypatch.setattr("openvino.Core", lambda: core)
    for probe in gemm_probe.PROBES.values():
        peaks = probe(1, "cpu")
        assert [peak["dtype"] for peak in peaks] == ["bf16", "fp32"] and all(peak["flops"] > 0 for peak in peaks)
