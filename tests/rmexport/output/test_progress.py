"""Bars show bytes, rate and time left, also of what was continued; and nothing where nobody looks."""

import pytest

from rmexport.output import progress
from terminals import no_terminal, stopped_clock, terminal


def test_bytes_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, progress)
    with progress.byte_bar("weights") as show:
        show(0, 4 << 30)
        show(3 << 30, 4 << 30)
    last = shown.getvalue().split("\r")[-1]
    assert "weights:  75%" in last and "3.00G/4.00G" in last and "B/s" in last and "<" in last


def test_what_was_there_already_is_not_in_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 10 seconds in which 100 MiB were added to 3000: 10.5 MB/s, not 325."""
    shown, now = terminal(monkeypatch, progress), stopped_clock(monkeypatch)
    with progress.byte_bar("weights") as show:
        show(3000 << 20, 4000 << 20)
        now[0] += 10
        show(3100 << 20, 4000 << 20)
    last = shown.getvalue().split("\r")[-1]
    assert "10.5MB/s" in last and "01:30" in last and "3.03G/3.91G" in last


def test_a_line_does_not_run_into_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch, progress)
    with progress.byte_bar("weights") as show:
        show(1, 2)
        progress.notify("3 of 28 shards are kept")
    assert "\n3 of 28 shards are kept\n" in shown.getvalue().replace("\r", "\n")


def test_no_bar_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = no_terminal(monkeypatch, progress)
    with progress.byte_bar("weights") as show:
        show(1, 2)
    assert shown.getvalue() == ""
