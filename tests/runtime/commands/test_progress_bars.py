"""Bars of the scoring commands; the functions that they call draw none."""

import json
from pathlib import Path

import pytest

from rmexport import export
from rmruntime import ScoreOptions
from rmruntime.cli import main
from rmruntime.commands import progress_bars
from rmruntime.score_file import FileOptions, score_file
from terminals import no_terminal, stopped_clock, terminal
from tiny_checkpoints import sequence_classifier

RECORDS = [{"prompt": "a", "response": "b"}, {"prompt": "a", "chosen": "b", "rejected": "c"}]


def test_records_of_earlier_runs_are_shown_and_not_in_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes by before the first call, a cluster that starts, is not in it either."""
    shown, now = terminal(monkeypatch, progress_bars), stopped_clock(monkeypatch)
    with progress_bars.record_bar() as show:
        now[0] += 100
        assert shown.getvalue() == ""
        show(600, 1000)
        now[0] += 10
        show(700, 1000)
    last = shown.getvalue().split("\r")[-1]
    assert "scoring:  70%" in last and "700/1000" in last and "10.00 records/s" in last and "00:30" in last


def test_the_command_shows_a_bar_and_the_function_tells_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(str(sequence_classifier(tmp_path / "c").folder), tmp_path / "b")
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    shown, told = terminal(monkeypatch, progress_bars), list[int]()
    files = FileOptions(input=source, output=tmp_path / "out.jsonl")
    score_file(str(tmp_path / "b"), files, ScoreOptions(), told.append)
    assert shown.getvalue() == "" and told[0] == 0 and sum(told) == 3
    assert main(["score", str(tmp_path / "b"), str(source), "-o", str(tmp_path / "out.jsonl")]) == 0
    assert "scoring: 3 seq" in shown.getvalue()


def test_no_bar_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = no_terminal(monkeypatch, progress_bars)
    with progress_bars.sequence_bar() as advance:
        advance(1)
    assert shown.getvalue() == ""
