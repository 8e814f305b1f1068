"""Tables of the page as plain values, between the report and the template."""

from dataclasses import dataclass
from typing import Literal

from rmexport.bench.report.fields import Contestant
from rmexport.bench.report.quantities import MISSING

Kind = Literal["text", "long", "number", "good", "bad"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell; `place` puts the colour of that contestant before the text."""

    text: str
    kind: Kind = "text"
    place: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table: a title, column names, rows of as many cells, and notes on the figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def name_cell(contestant: Contestant) -> Cell:
    """A contestant's name in its colour."""
    return Cell(text=contestant.name, place=contestant.place)


def number_cell(value: str) -> Cell:
    """Figures, aligned to the right."""
    return Cell(text=value, kind="number")


def text_cell(value: str | None) -> Cell:
    """Text, or a dash where there is none."""
    return Cell(text=value or MISSING)


def long_cell(value: str | None) -> Cell:
    """Text that may take several lines."""
    return Cell(text=value or MISSING, kind="long")


def errors_cell(count: int) -> Cell:
    """A count of failed requests, loud unless it is zero."""
    return Cell(text=f"{count:,}", kind="bad" if count else "number")


def facts_sheet(title: str, facts: list[tuple[str, str | None]], note: str = "") -> Sheet:
    """Names and values, without those that are not known."""
    rows = tuple((Cell(text=name), Cell(text=value)) for name, value in facts if value and value != MISSING)
    return Sheet(title=title, columns=(), rows=rows, note=note)
