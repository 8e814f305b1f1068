"""Checkpoints that a peer converts: once, whole, and in another process than the one that is measured."""

from pathlib import Path

import pytest

from fake_peers import fake_peer
from rmexport import export
from rmexport.bench import run, scenarios
from rmexport.bench.options import BenchOptions
from rmexport.bench.worker.conversion import converted
from rmexport.bench.worker.scorer import LoadOptions
from tiny_checkpoints import sequence_classifier

PREPARE = """

def prepare(folder, options):
    from pathlib import Path
    from rmexport.bench.worker.conversion import converted

    def write(target):
        target.mkdir()
        (target / "converted").write_text(str(os.getpid()))

    return converted(folder, NAME, options, write)


def load(folder, dtype, threads, options):
    assert int(open(folder + "/converted").read()) != os.getpid()
    return Scorer()
"""


def test_a_conversion_is_kept_until_the_checkpoint_changes(tmp_path: Path) -> None:
    source, cache = tmp_path / "c", tmp_path / "cache"
    source.mkdir()
    cache.mkdir()
    (source / "config.json").write_text("{}")
    made: list[Path] = []

    def convert(target: Path) -> None:
        target.mkdir()
        made.append(target)

    options = LoadOptions(cache=str(cache))
    first = converted(str(source), "x", options, convert)
    assert converted(str(source), "x", options, convert) == first and len(made) == 1 and Path(first).is_dir()
    (source / "config.json").write_text("{ }")
    assert converted(str(source), "x", options, convert) != first and len(made) == 2


def test_a_failed_conversion_leaves_nothing_that_looks_done(tmp_path: Path) -> None:
    def convert(target: Path) -> None:
        target.mkdir()
        raise RuntimeError("disk full")

    (tmp_path / "c").mkdir()
    (tmp_path / "cache").mkdir()
    options = LoadOptions(cache=str(tmp_path / "cache"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="disk full"):
            converted(str(tmp_path / "c"), "x", options, convert)


def test_a_peer_that_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "measure_gemm_peaks", lambda options: [])
    monkeypatch.setattr(scenarios, "SETTLE_S", 0.0)
    checkpoint = sequence_classifier(tmp_path / "c").folder
    export(str(checkpoint), tmp_path / "b")
    peer = fake_peer(tmp_path, "sums")
    peer.write_text(peer.read_text() + PREPARE)
    options = BenchOptions(
        profile="ragged", scenarios=("offline",), repeats=1, device="ort-cpu", peers=(str(peer),),
        checkpoint=str(checkpoint), peer_cache=tmp_path / "cache",
    )  # fmt: skip
    report = run.run_bench(tmp_path / "b", options, tmp_path / "out")
    own, other = report["contestants"]
    assert (own["status"], other["status"]) == ("ok", "ok"), other["message"]
    assert own["prepare_s"] is None and other["prepare_s"] > 0 and report["gemm_peak"] is None
    assert own["scenarios"][0]["gemm_share"] is None
    assert len([path for path in (tmp_path / "cache").iterdir() if path.name.startswith("sums-")]) == 1
