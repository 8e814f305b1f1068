"""A terminal that bars are drawn on, and what is shown there."""

import io
import sys
from types import ModuleType
from typing import TypeVar

import pytest

Shown = TypeVar("Shown", bound=io.StringIO)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch, bars: ModuleType) -> Terminal:
    """stderr as a terminal, on which the bars of the module `bars` show at once."""
    return _shown_on(Terminal(), monkeypatch, bars)


def no_terminal(monkeypatch: pytest.MonkeyPatch, bars: ModuleType) -> io.StringIO:
    """stderr as a file."""
    return _shown_on(io.StringIO(), monkeypatch, bars)


def _shown_on(stream: Shown, monkeypatch: pytest.MonkeyPatch, bars: ModuleType) -> Shown:
    monkeypatch.setattr(bars, "DELAY", 0.0)
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that bars see, in seconds: one item, for the test to change."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr("tqdm.std.tqdm._time", lambda bar: now[0], raising=False)
    return now
