"""Offline throughput: one bar per contestant, with how many times as fast rmexport is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rmexport.bench.report.fields import Contestant, Report, main_comparisons, number, records, with_scenario
from rmexport.bench.report.figures import INK, Shape, bar_axes, colour, group_name, new_figure
from rmexport.bench.report.quantities import figure, middle_elided, ratio_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "offline_throughput"
TITLE = "Throughput, all conversations at once (offline)"
CAPTION = (
    "The best repeat of each contestant; the thin line spans all its repeats. "
    "A ratio above 1 means that rmexport is faster."
)


def draw(report: Report, shape: Shape) -> "Figure | None":
    """Bars of conversations per second; None where no contestant has an offline result.

    >>> from rmexport.bench.report.figures import WIDE
    >>> draw({"contestants": []}, WIDE) is None
    True
    """
    rows = [(c, s, v) for c, s in with_scenario(report, "offline") if (v := number(s, "conversations_per_s"))]
    if not rows:
        return None
    ratios = main_comparisons(report, "offline")
    drawn = new_figure(shape, 0.8 + 0.55 * len(rows))
    axes = drawn.add_subplot()
    bar_axes(axes, "conversations/s (more is better)")
    for y, (contestant, offline, value) in enumerate(rows):
        _bar(axes, y, contestant, offline, value)
        ratio = ratios.get(contestant.name)
        _label(axes, y, contestant, shape, value, None if ratio is None else ratio.ratio)
    axes.set_xlim(0, 1.18 * max(v for _, _, v in rows))
    axes.set_ylim(len(rows) - 0.6, -0.75)
    return drawn


def _bar(axes: "Axes", y: int, contestant: Contestant, offline: Mapping[str, Any], value: float) -> None:
    axes.barh(y, value, height=0.42, color=colour(contestant.place))
    best = number(offline, "seconds")
    seconds = [s for r in records(offline, "repeats") if (s := number(r, "seconds"))]
    if best and len(seconds) > 1:
        speeds = [value * best / s for s in seconds]
        axes.plot([min(speeds), max(speeds)], [y, y], color=INK, linewidth=1.2, marker="|", markersize=6)


def _label(axes: "Axes", y: int, contestant: Contestant, shape: Shape, value: float, ratio: float | None) -> None:
    name = middle_elided(contestant.name, 14 if shape.narrow else 48)
    if contestant.same_scores is False:
        name += " · WRONG SCORES"
    elif ratio is not None:
        name += f" · rmexport {'' if shape.narrow else 'is '}{ratio_text(ratio)} as fast"
    group_name(axes, y - 0.24, name)
    axes.annotate(figure(value), (value, y), xytext=(6, 0), textcoords="offset points", va="center")
