"""The table for the terminal."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from rmexport.bench.report import table

Samples = Callable[[str], dict[str, Any]]


def row(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if line.startswith(name)).split()


def test_a_row_a_contestant(samples: Samples) -> None:
    report = samples("full")
    text = table(report)
    own, peer = report["contestants"][:2]
    single, _, offline = peer["scenarios"]
    found = row(text, "transformers ")
    assert found[1] == f"{single['latency_ms']['p50']:.1f}"
    assert found[7] == f"{offline['conversations_per_s']:.1f}"
    ratios = {c["scenario"]: c["ratio"] for c in report["comparisons"] if c["contestant"] == "transformers"}
    assert [found[i] for i in (3, 6, 11)] == [f"{r:.2f}x" for r in ratios.values()]
    assert found[-2:] == ["same", "scores"]
    assert row(text, "rmexport  ")[-1] == "reference"
    assert f"{own['scenarios'][1]['knee_rate']:.1f}" in row(text, "rmexport  ")
    assert f"rmexport: {own['precision']} on {own['settings']}" in text.splitlines()
    assert "single-stream by p50 latency, server by rate at the knee, offline by conversations/s" in text


def test_the_columns_stand_under_each_other(samples: Samples) -> None:
    lines = table(samples("failed")).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("contestant"))
    flags = ("scores", "reference", "same", "same", "FAILED", "NOT INSTALLED")
    starts = {line.index(flag) for line, flag in zip(lines[head : head + 6], flags, strict=True)}
    assert len(starts) == 1


def test_wrong_scores_are_loud_and_lose(samples: Samples) -> None:
    text = table(samples("wrong scores"))
    assert row(text, "transformers-kv")[-2:] == ["WRONG", "SCORES"]
    assert "!! WRONG SCORES: transformers-kv: max abs difference 3.20 from rmexport, tolerance 0.0500, 17 of 64" in text
    assert "as fast as transformers-kv" not in text
    assert "as fast as transformers in offline" in text


def test_scores_that_are_not_numbers(samples: Samples) -> None:
    report = samples("wrong scores")
    report["contestants"][2]["parity"] |= dict.fromkeys(("max_abs", "mean_abs", "tolerance", "flipped_pairs"))
    assert "!! WRONG SCORES: transformers-kv: scores are missing or not finite; compared with rmexport" in table(report)


def test_no_verdict_when_every_score_differs(samples: Samples) -> None:
    report = samples("wrong scores")
    report["contestants"][1]["parity"]["same"] = False
    assert table(report).endswith("No comparison counts: no other contestant was seen to give the same scores.")


def test_contestants_without_results(samples: Samples) -> None:
    text = table(samples("failed"))
    assert "!! FAILED: vllm: RuntimeError: mkldnn <b>matmul</b> & co failed at line 3 [31m" in text
    assert "!! NOT INSTALLED: optimum-intel: no module optimum in this Python" in text
    assert set(row(text, "vllm")[1:-1]) == {"-"}


def test_a_partial_report(samples: Samples) -> None:
    text = table(samples("partial"))
    assert "!! PARTIAL REPORT: interrupted" in text
    assert "offline" not in text.split("!!")[0].partition("contestant")[2]


def test_a_long_message_is_cut(samples: Samples) -> None:
    report = samples("failed")
    report["contestants"][3]["message"] = "first " + "line\n" * 1000 + "last"
    line = next(line for line in table(report).splitlines() if line.startswith("!! FAILED: vllm"))
    assert len(line) < 600 and "first" in line and line.endswith("last")


def test_an_empty_report(samples: Samples) -> None:
    text = table(samples("empty"))
    assert "no contestant was started" in text
    assert "!! PARTIAL REPORT: no conversation could be read" in text


def test_failed_requests_count_unless_the_point_was_saturated(samples: Samples) -> None:
    report = samples("full")
    assert "ERRORS" not in table(report)
    report["contestants"][1]["scenarios"][1]["points"][0]["errors"] = 3
    report["contestants"][1]["scenarios"][2]["errors"] = 1
    assert "!! ERRORS: transformers: requests without a score: 3 in server, 1 in offline" in table(report)


def test_a_warm_up_that_did_not_settle(samples: Samples) -> None:
    report = samples("full")
    report["contestants"][1]["scenarios"][0]["settled"] = False
    assert "!! NOT SETTLED: transformers: " in table(report)


def test_who_kept_up_with_no_rate_is_named(samples: Samples) -> None:
    report = samples("full")
    assert "SATURATED" not in table(report)
    for point in report["contestants"][1]["scenarios"][1]["points"]:
        point["saturated"] = True
    assert "!! SATURATED: transformers: kept up with no rate in server, so it has no knee" in table(report)


def test_every_terminal_can_show_it(any_report: dict[str, Any]) -> None:
    table(any_report).encode("ascii")


def test_needs_no_matplotlib(samples: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "rmexport" in table(samples("full"))
