"""The report as one HTML page, without scripts or other files, in a light and a dark theme."""

from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup

from rmexport.bench.report.condition_sheets import condition_sheets, fields_text
from rmexport.bench.report.fields import Report, at, number, text
from rmexport.bench.report.figures import PALETTE, theme_variables
from rmexport.bench.report.quantities import bytes_text, count_text, figure, ratio_text
from rmexport.bench.report.result_sheets import result_sheets
from rmexport.bench.report.sheets import Sheet
from rmexport.bench.report.verdict import Headline, Notice, headlines, measure_text, notices, summary

_LIGHT = {
    "page": "#f6f7f8", "paper": "#ffffff", "ink": "#1b1f24", "faint": "#59626c", "grid": "#d5d9de", "alarm": "#b3261e",
    "good": "#1a6b3c", "warning": "#b7791f", "bad-page": "#fde8e6", "warning-page": "#fdf3dc",
}  # fmt: skip
_DARK = {
    "page": "#12161a", "paper": "#1a1f25", "ink": "#e4e7ea", "faint": "#9ea7b0", "grid": "#343b43", "alarm": "#ff8a80",
    "good": "#6fcf97", "warning": "#e0a94a", "bad-page": "#3d1f1d", "warning-page": "#3a2f17",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DrawnPlot:
    """A plot as two <svg> elements, for wide and for narrow screens; `file` is the stem of its PNG."""

    file: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup


@dataclass(frozen=True, kw_only=True)
class Card:
    """A scenario's headline on the page: its ratio, and what it is compared with."""

    scenario: str
    ratio: str
    words: str
    others: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the page's template shows; it escapes every plain text."""

    title: str
    css: Markup
    name: str
    facts: str
    notices: list[Notice]
    summary: str
    cards: list[Card]
    plots: list[DrawnPlot]
    results: list[Sheet]
    conditions: list[Sheet]
    command: str
    fields: str


def html(report: Report, plots: list[DrawnPlot]) -> str:
    """The HTML of the page.

    >>> html({"bundle": {"name": "reward"}}, []).splitlines()[0]
    '<!DOCTYPE html>'
    """
    name = text(report, "bundle", "name") or "unnamed bundle"
    page = Page(
        title=f"rmexport bench: {name}",
        css=Markup(style()),  # not escaped: it comes from this package
        name=name,
        facts=facts(report),
        notices=notices(report),
        summary=summary(report),
        cards=[_card(h) for h in headlines(report)],
        plots=plots,
        results=result_sheets(report),
        conditions=condition_sheets(report),
        command=text(report, "command") or "not recorded",
        fields=fields_text(report),
    )
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.from_string(_file("page.html.j2")).render(page=page)


def facts(report: Report) -> str:
    """One line with model, machine, workload and time.

    >>> facts({"bundle": {"model_type": "qwen3"}, "machine": {"cores": 2}})
    'qwen3 · 2 cores'
    """
    bundle, machine, workload = at(report, "bundle"), at(report, "machine"), at(report, "workload")
    words = (
        text(bundle, "model_type"),
        f"{count_text(number(bundle, 'parameters'))} parameters" if number(bundle, "parameters") else None,
        text(bundle, "dtype"),
        text(machine, "cpu"),
        f"{figure(at(machine, 'cores'))} cores" if number(machine, "cores") else None,
        bytes_text(number(machine, "memory_bytes")) if number(machine, "memory_bytes") else None,
        f"workload {text(workload, 'name')}" if text(workload, "name") else None,
        text(report, "started"),
    )
    return " · ".join(w for w in words if w)


def style() -> str:
    """The style sheet: the colours of both themes, then the rules of page.css.

    >>> style().splitlines()[0][:32]
    ':root { color-scheme: light dark'
    """
    light = _block({**_LIGHT, **theme_variables(dark=False)})
    dark = _block({**_DARK, **theme_variables(dark=True)})
    swatches = "\n".join(f".swatch.c{i} {{ background: var(--c{i}); }}" for i in range(len(PALETTE)))
    themes = (
        f":root {{ color-scheme: light dark; {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    )
    return f"{themes}\n{_file('page.css')}{swatches}\n"


def _block(variables: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in variables.items())


def _card(headline: Headline) -> Card:
    others = "; ".join(f"{name} {ratio_text(ratio)}" for name, ratio in headline.others)
    return Card(
        scenario=headline.scenario,
        ratio=ratio_text(headline.ratio),
        words=f"as fast as {headline.peer} by {measure_text(headline.measure)}",
        others=f"against the others: {others}" if others else "",
    )


def _file(name: str) -> str:
    return resources.files("rmexport.bench.report").joinpath(name).read_text(encoding="utf-8")
