"""Where the time goes: one stacked bar per contestant and scenario, as shares of the time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmexport.bench.report.fields import SPLIT_PARTS, Contestant, Report, contestants, number
from rmexport.bench.report.figures import PART_COLOURS, Shape, bar_axes, group_name, new_figure
from rmexport.bench.report.quantities import figure, middle_elided, percent_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILE = "time_split"
TITLE = "Where the time goes"
CAPTION = (
    "Mean time a request (single-stream) and time of the best repeat (offline), by part. "
    "Other is time that belongs to no part. Parts that overlap can add up to more than the time that passed."
)


@dataclass(frozen=True, kw_only=True)
class Split:
    """The time of one contestant in one scenario by part, in `unit` (ms or s)."""

    contestant: Contestant
    scenario: str
    parts: dict[str, float]
    unit: str

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    @property
    def outside(self) -> float | None:
        """The share of the time that is spent outside the engine; None where the engine's time is not known."""
        return 1 - self.parts["engine"] / self.total if "engine" in self.parts else None


def splits(report: Report) -> list[Split]:
    """Every split of the time that the report has.

    >>> record = {"scenario": "offline", "seconds": 2.0, "split_s": {"engine": 1.5}}
    >>> [(s.scenario, s.parts) for s in splits({"contestants": [{"name": "rmexport", "scenarios": [record]}]})]
    [('offline', {'engine': 1.5, 'other': 0.5})]
    """
    found = []
    for contestant in contestants(report):
        single, offline = contestant.scenario("single-stream"), contestant.scenario("offline")
        means = {p: number(single, "split_ms", p, "mean") for p in SPLIT_PARTS}
        seconds = {p: number(offline, "split_s", p) for p in SPLIT_PARTS}
        found.append(_split(contestant, "single-stream", means, number(single, "latency_ms", "mean"), "ms"))
        found.append(_split(contestant, "offline", seconds, number(offline, "seconds"), "s"))
    return [s for s in found if s is not None]


def _split(
    contestant: Contestant, scenario: str, parts: dict[str, float | None], whole: float | None, unit: str
) -> Split | None:
    known = {name: value for name, value in parts.items() if value is not None}
    if sum(known.values()) <= 0:
        return None
    rest = (whole or 0.0) - sum(known.values())
    if rest > 0:
        known["other"] = rest
    return Split(contestant=contestant, scenario=scenario, parts=known, unit=unit)


def draw(report: Report, shape: Shape) -> "Figure | None":
    """Stacked shares of the time; None where no contestant reports a split.

    >>> from rmexport.bench.report.figures import WIDE
    >>> draw({"contestants": []}, WIDE) is None
    True
    """
    rows = splits(report)
    if not rows:
        return None
    drawn = new_figure(shape, (1.5 if shape.narrow else 1.2) + 0.55 * len(rows))
    axes = drawn.add_subplot()
    bar_axes(axes, "share of the time, %")
    for y, split in enumerate(rows):
        _bar(axes, y, split, shape)
    _legend(drawn, {name for split in rows for name in split.parts}, shape)
    axes.set_xlim(0, 100)
    axes.set_ylim(len(rows) - 0.6, -0.75)
    return drawn


def _bar(axes: "Axes", y: int, split: Split, shape: Shape) -> None:
    left = 0.0
    for name, value in split.parts.items():
        share = 100 * value / split.total
        axes.barh(y, share, left=left, height=0.42, color=PART_COLOURS[name])
        left += share
    words = f"{middle_elided(split.contestant.name, 14 if shape.narrow else 40)}, {split.scenario}: "
    words += figure(split.total, split.unit)
    if split.outside is not None and not shape.narrow:
        words += f", {percent_text(split.outside)} outside the engine"
    group_name(axes, y - 0.24, words)


def _legend(drawn: "Figure", names: set[str], shape: Shape) -> None:
    from matplotlib.patches import Patch

    parts = [p for p in PART_COLOURS if p in names]
    patches = [Patch(color=PART_COLOURS[p], label=p) for p in parts]
    drawn.legend(handles=patches, loc="outside upper left", ncols=3 if shape.narrow else 6)
