"""Single-stream latency: one group of bars per contestant, one bar per percentile."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rmexport.bench.report.fields import PERCENTILES, Contestant, Report, at, number, with_scenario
from rmexport.bench.report.figures import INK, PAPER, Shape, bar_axes, colour, group_name, new_figure
from rmexport.bench.report.quantities import figure, middle_elided

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "single_stream_latency"
TITLE = "Latency, one conversation at a time (single-stream)"
CAPTION = (
    "Percentiles over the requests of all repeats. The thin line on p50 spans the p50 of the single repeats. "
    "A percentile of few requests is close to the maximum: the tables mark those."
)
_STEP = 0.19  # from bar to bar
_GROUP = len(PERCENTILES) * _STEP + 0.32


def draw(report: Report, shape: Shape) -> "Figure | None":
    """Bars of latency in ms; None where no contestant has a single-stream result.

    >>> from rmexport.bench.report.figures import WIDE
    >>> draw({"contestants": []}, WIDE) is None
    True
    """
    groups = [(c, s) for c, s in with_scenario(report, "single-stream") if number(s, "latency_ms", "p50") is not None]
    if not groups:
        return None
    drawn = new_figure(shape, 0.7 + _GROUP * len(groups))
    axes = drawn.add_subplot()
    bar_axes(axes, "latency, ms (less is better)")
    for i, (contestant, scenario) in enumerate(groups):
        _group(axes, i * _GROUP, contestant, scenario, shape)
    highest = max(number(s, "latency_ms", p) or 0 for _, s in groups for p in PERCENTILES)
    axes.set_xlim(0, 1.15 * highest or 1)
    axes.set_ylim(_GROUP * len(groups) - 0.3, -0.4)
    return drawn


def _group(axes: "Axes", top: float, contestant: Contestant, scenario: Mapping[str, Any], shape: Shape) -> None:
    wrong = " · WRONG SCORES" if contestant.same_scores is False else ""
    group_name(axes, top - 0.11, middle_elided(contestant.name, 22 if shape.narrow else 48) + wrong)
    for i, percentile in enumerate(PERCENTILES):
        value = number(scenario, "latency_ms", percentile)
        if value is None:
            continue
        y = top + i * _STEP
        axes.barh(y, value, height=0.15, color=PAPER)  # hides the grid, which the lighter bars let through
        axes.barh(y, value, height=0.15, color=colour(contestant.place), alpha=1.0 - 0.16 * i)
        axes.annotate(
            f"{percentile} {figure(value)}",
            (value, y),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    repeats = [v for v in at(scenario, "repeat_p50_ms") or [] if isinstance(v, int | float)]
    if len(repeats) > 1:
        axes.plot([min(repeats), max(repeats)], [top, top], color=INK, linewidth=1.2, marker="|", markersize=5)
