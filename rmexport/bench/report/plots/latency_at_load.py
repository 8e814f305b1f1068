"""Server latency: percentiles over the throughput reached, one curve per contestant, one panel per percentile."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmexport.bench.report.fields import Contestant, Report, knee_point, number, records, with_scenario
from rmexport.bench.report.figures import ALARM, INK, PAPER, Shape, colour, marker, new_figure
from rmexport.bench.report.quantities import figure, middle_elided

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FILE = "server_latency"
TITLE = "Latency under load (server)"
CAPTION = (
    "Requests arrive at random (Poisson) at each given rate; latency runs from the scheduled time, so waiting counts. "
    "Hollow points are saturated: the rate was not kept up, or p99 was over the SLO. "
    "A ring marks the knee: the highest rate that was borne."
)
_PANELS = ("p50", "p95", "p99")


def draw(report: Report, shape: Shape) -> "Figure | None":
    """Curves of latency in ms over requests per second; None where no contestant has a point of the server scenario.

    >>> from rmexport.bench.report.figures import WIDE
    >>> draw({"contestants": []}, WIDE) is None
    True
    """
    curves = [(c, s) for c, s in with_scenario(report, "server") if any(_curve(s, p) for p in _PANELS)]
    if not curves:
        return None
    rows, columns = (3, 1) if shape.narrow else (1, 3)
    drawn = new_figure(shape, (2.1 * rows if shape.narrow else 3.6) + 0.2 * (2 + len(curves)))
    panels = drawn.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, percentile in zip(panels, _PANELS, strict=True):
        _panel(axes, percentile, curves)
    for axes in panels[:rows]:
        axes.set_ylabel("latency, ms")
    panels[-1 if shape.narrow else 1].set_xlabel("throughput reached, requests/s")
    handles, labels = panels[0].get_legend_handles_labels()
    if any(knee_point(s) for _, s in curves):
        handles, labels = [*handles, _ring()], [*labels, "knee"]
    drawn.legend(handles, labels, loc="outside upper left", ncols=1 if shape.narrow else 5)
    return drawn


def _curve(server: Mapping[str, Any], percentile: str) -> list[tuple[float, float, bool]]:
    """Throughput, latency and whether the point is saturated, in the order of the given rates."""
    points = sorted(records(server, "points"), key=lambda p: number(p, "rate") or 0.0)
    return [
        (x, y, bool(point.get("saturated")))
        for point in points
        if (x := number(point, "achieved_rate")) is not None and (y := number(point, "latency_ms", percentile))
    ]


def _panel(axes: "Axes", percentile: str, curves: Sequence[tuple[Contestant, Mapping[str, Any]]]) -> None:
    axes.set_title(percentile, loc="left", fontweight="bold")
    axes.set_yscale("log")
    axes.grid()
    for contestant, server in curves:
        _draw_curve(axes, percentile, contestant, server)
    for limit in sorted({v for _, s in curves if (v := number(s, "slo_ms"))}):
        axes.axhline(limit, color=ALARM, linestyle="--", linewidth=1.2, label=f"SLO {figure(limit, 'ms')}")
    axes.set_xlim(left=0)
    _plain_log_ticks(axes)


def _draw_curve(axes: "Axes", percentile: str, contestant: Contestant, server: Mapping[str, Any]) -> None:
    curve = _curve(server, percentile)
    tint, sign = colour(contestant.place), marker(contestant.place)
    wrong = " (WRONG SCORES)" if contestant.same_scores is False else ""
    axes.plot([x for x, _, _ in curve], [y for _, y, _ in curve], color=tint, linewidth=1.6)
    solid = [(x, y) for x, y, saturated in curve if not saturated]
    hollow = [(x, y) for x, y, saturated in curve if saturated]
    label = middle_elided(contestant.name, 22) + wrong
    axes.plot(*_columns(solid), sign, color=tint, markersize=5, label=label)
    axes.plot(*_columns(hollow), sign, color=tint, markersize=5, markerfacecolor=PAPER)
    knee = knee_point(server)
    x, y = number(knee, "achieved_rate"), number(knee, "latency_ms", percentile)
    if x is not None and y is not None:
        ring = _ring()
        ring.set_data([x], [y])
        axes.add_line(ring)


def _ring() -> "Line2D":
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], color=INK, linestyle="none", marker="o", markerfacecolor="none", markersize=11, markeredgewidth=1.3
    )


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _plain_log_ticks(axes: "Axes") -> None:
    """1, 2, 5, 10, ... instead of powers: most ranges here are within two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
