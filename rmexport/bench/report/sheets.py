"""The page's tables as plain values, which the template turns into HTML."""

from dataclasses import dataclass
from typing import Literal

from rmexport.bench.report.fields import Contestant
from rmexport.bench.report.quantities import MISSING

Kind = Literal["text", "long", "number", "good", "bad"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table; `place` shows the colour of that contestant before the text."""

    text: str
    kind: Kind = "text"
    place: int | None = None


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table: a title, column names, rows with one cell per column, and a note on its figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def name_cell(contestant: Contestant) -> Cell:
    """A cell with a contestant's name and colour.

    >>> name_cell(Contestant(name="rmexport", place=0, record={}))
    Cell(text='rmexport', kind='text', place=0)
    """
    return Cell(text=contestant.name, place=contestant.place)


def number_cell(value: str) -> Cell:
    """A cell with a number, aligned to the right.

    >>> number_cell("4,096").kind
    'number'
    """
    return Cell(text=value, kind="number")


def text_cell(value: str | None) -> Cell:
    """A cell with text, or a dash where there is none.

    >>> text_cell(None).text
    '–'
    """
    return Cell(text=value or MISSING)


def long_cell(value: str | None) -> Cell:
    """A cell with text that may take several lines, or a dash where there is none.

    >>> long_cell("out of memory").kind
    'long'
    """
    return Cell(text=value or MISSING, kind="long")


def errors_cell(count: int) -> Cell:
    """A cell with a count of failed requests, marked as bad unless it is zero.

    >>> errors_cell(0).kind, errors_cell(3).kind
    ('number', 'bad')
    """
    return Cell(text=f"{count:,}", kind="bad" if count else "number")


def facts_sheet(title: str, facts: list[tuple[str, str | None]], note: str = "") -> Sheet:
    """A table of names and values, without values that are not known.

    >>> len(facts_sheet("Machine", [("CPU", "EPYC"), ("GPUs", None)]).rows)
    1
    """
    rows = tuple((Cell(text=name), Cell(text=value)) for name, value in facts if value and value != MISSING)
    return Sheet(title=title, columns=(), rows=rows, note=note)
