"""The script for the table of peers: what it measures, and what it writes down of it."""

import argparse
import json
import time
from pathlib import Path

import bench_peers
import pytest
from performance_tables import tables

from rmexport import ExportOptions, export
from rmexport.bench.profiles import Pairs, Ragged
from tiny_checkpoints import sequence_classifier


def test_the_workloads_have_their_lengths() -> None:
    ragged = bench_peers.CASES["ragged"]
    assert isinstance(ragged, Ragged)
    lengths = ragged.lengths
    assert len(set(lengths)) == 16 and (min(lengths), max(lengths)) == (16, 700) and list(lengths) != sorted(lengths)


def test_a_round_with_both_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = sequence_classifier(tmp_path / "c").folder
    export(str(checkpoint), tmp_path / "b", ExportOptions(dtype="fp32"))
    monkeypatch.setattr(bench_peers, "PEERS", ())
    cases = {"ragged": Ragged((9, 5)), "pairs": Pairs(pairs=1, prompt=(4, 6), answer=(2, 3))}
    monkeypatch.setattr(bench_peers, "CASES", cases)
    one = bench_peers.Round(model="m", weights="random", dtype="fp32", checkpoint=checkpoint, bundle=tmp_path / "b")
    arguments = argparse.Namespace(peer_folder=None, threads=1, work=tmp_path, case=None, loads=1, repeats=2)
    results = bench_peers.Results(tmp_path / "peers.json")
    bench_peers.measure(one, arguments, time.monotonic() + 600, results)
    written = json.loads((tmp_path / "peers.json").read_text())
    rows = {(row["case"], row["contestant"]): row for row in written["rows"]}
    assert set(rows) == {
        (case, f"rmexport {engine}") for case in ("load", "ragged", "pairs") for engine in ("ort-cpu", "openvino")
    }
    assert not written["complete"]  # until every round is over
    assert all(row["status"] == "ok" and row["min"] <= row["median"] for row in rows.values())
    assert len(rows["ragged", "rmexport openvino"]["seconds"]) == 2
    assert rows["pairs", "rmexport openvino"]["parity"]["same"] and rows["pairs", "rmexport ort-cpu"]["parity"] is None
    assert "| m, random weights | fp32 | pairs | " in tables([written])


def test_when_the_time_is_over_one_repeat_is_left(tmp_path: Path) -> None:
    passes = []

    class Fake:
        entrant, running, scores = argparse.Namespace(name="ours"), True, ()

        def __init__(self) -> None:
            self.record = {"status": "ok", **dict.fromkeys(("message", "peak_bytes", "precision", "parity"))}

        def ask(self, do: str, **more: object) -> dict[str, object]:
            passes.append(do)
            return {"seconds": 1.0, "scores": [1.0], "computed": 1}

        def attempt(self, piece: object) -> None:
            piece(self)  # type: ignore[operator]

    one = bench_peers.Round(model="m", weights="random", dtype="fp32", checkpoint=tmp_path, bundle=tmp_path)
    workload = bench_peers.Workload(name="w", kind="profile", seed=0, requests=())
    rows = bench_peers.measure_case(one, "ragged", workload, [Fake()], 5, time.monotonic() - 1)
    assert rows[0]["seconds"] == [1.0] and passes == ["workload", "offline", "offline"]
    assert bench_peers.line(rows[0]) == "m (random) fp32 ragged: ours 1.000 s, median 1.000 of 1"
