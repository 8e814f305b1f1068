"""The workload's token lengths as a histogram."""

from typing import TYPE_CHECKING

from rmexport.bench.report.fields import Report, at, number
from rmexport.bench.report.figures import INK, Shape, colour, new_figure
from rmexport.bench.report.quantities import figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "workload_lengths"
TITLE = "Lengths of the conversations"
CAPTION = "How many sequences of the workload have how many tokens, before any sharing of prefixes."
_MOST_LABELS = 12


def draw(report: Report, shape: Shape) -> "Figure | None":
    """A histogram with the report's own bins, all of the same width; None where the workload has no lengths.

    >>> from rmexport.bench.report.figures import WIDE
    >>> draw({"workload": {}}, WIDE) is None
    True
    """
    lengths = at(report, "workload", "lengths")
    edges, counts = at(lengths, "edges") or [], at(lengths, "counts") or []
    if not counts or len(edges) != len(counts) + 1:
        return None
    from matplotlib.ticker import MaxNLocator

    drawn = new_figure(shape, 2.6)
    axes = drawn.add_subplot()
    axes.bar(range(len(counts)), counts, width=0.96, align="edge", color=colour(7))
    step = -(-len(edges) // (_MOST_LABELS // 2 if shape.narrow else _MOST_LABELS))
    shown = list(range(0, len(edges), step))
    axes.set_xticks(shown, [figure(edges[i]) for i in shown])
    axes.set_xlim(0, len(counts))
    axes.set_xlabel("tokens in a sequence")
    axes.set_ylabel("sequences")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    named = ("p50", "p90", "max") if shape.narrow else ("min", "p50", "mean", "p90", "max")
    words = [f"{p} {figure(v)}" for p in named if (v := number(lengths, p)) is not None]
    axes.set_title(", ".join(words), loc="left", color=INK, fontsize=9)
    return drawn
