"""The report's plots, one per file: FILE, TITLE, CAPTION, and draw(report, shape), None without its data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmexport.bench.report.fields import Report
from rmexport.bench.report.figures import Shape
from rmexport.bench.report.plots import latency_at_load, lengths, single_stream, throughput, time_split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot of the report: the stem of its PNG, its title and caption on the page, and the function that draws it."""

    file: str
    title: str
    caption: str
    draw: "Callable[[Report, Shape], Figure | None]"


PLOTS = tuple(
    Plot(file=module.FILE, title=module.TITLE, caption=module.CAPTION, draw=module.draw)
    for module in (throughput, single_stream, latency_at_load, time_split, lengths)
)
