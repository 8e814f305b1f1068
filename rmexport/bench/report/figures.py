"""Matplotlib set up for the report: one palette, two shapes of each plot, and themed SVG for the page.

Matplotlib is imported inside the functions: the table and the JSON work without it. Only its object interface is used,
so that nothing global changes for a caller who plots as well.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rmexport.errors import ReportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours for colour-blind readers; their yellow and black, which one of the themes hides, are replaced.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#6b6b6b")
DARK_PALETTE = ("#4ba3e3", "#f0803c", "#2cc295", "#e39bc4", "#f2b632", "#9ad7f7", "#c9a86a", "#a8adb3")
MARKERS = (
    "o",
    "s",
    "^",
    "D",
    "v",
    "P",
    "X",
    "*",
)  # a second mark, for colour-blind readers and more than eight contestants
# Colours of the parts of the time, which differ from those of contestants.
PART_COLOURS = {
    "template": "#332288",
    "tokenize": "#44aa99",
    "plan": "#ddcc77",
    "engine": "#9aa5b1",
    "output": "#882255",
    "other": "#e5e0d8",
}
DARK_PART_COLOURS = {
    "template": "#8b7fe0",
    "tokenize": "#55c2b0",
    "plan": "#e3d27c",
    "engine": "#74808c",
    "output": "#d1659a",
    "other": "#4a4640",
}
INK, GRID, ALARM, PAPER = "#1b1f24", "#d5d9de", "#b3261e", "#ffffff"
_SETTINGS: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same plot on each machine
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,  # names may hold dollar signs
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it follows the page's theme and can be searched
    "svg.hashsalt": "rmexport",  # the same report makes the same bytes
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A format of a plot: its width in inches, at 9 points of text, and whether its panels are below each other."""

    name: str
    width: float
    narrow: bool


WIDE = Shape(name="wide", width=9.2, narrow=False)
NARROW = Shape(name="narrow", width=3.5, narrow=True)  # a phone in portrait


def require_matplotlib() -> None:
    """Raises ReportError, which says what to install, where matplotlib is missing."""
    try:
        import matplotlib.backends.backend_agg
        import matplotlib.figure  # noqa: F401 # asked for, not used
    except ModuleNotFoundError as error:
        raise ReportError(
            f"the plots and the page need {error.name}, which is not installed; pip install 'rmexport[bench]' and "
            "redraw with --from-json. The JSON report and the table do not need it"
        ) from error


@contextmanager
def drawing() -> Iterator[None]:
    """A context in which figures have the report's style; matplotlib's own settings are restored afterwards."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes in the PNG; the page's text shows it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def new_figure(shape: Shape, height: float) -> "Figure":
    """An empty figure of the shape's width and of `height` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(shape.width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def colour(place: int) -> str:
    """The colour of the contestant with the place `place`.

    >>> colour(0), colour(8)
    ('#0072b2', '#0072b2')
    """
    return PALETTE[place % len(PALETTE)]


def marker(place: int) -> str:
    """The marker of the contestant with the place `place`; contestants of one colour have different markers.

    >>> marker(0), marker(8)
    ('o', 's')
    """
    return MARKERS[(place + place // len(PALETTE)) % len(MARKERS)]


def bar_axes(axes: "Axes", label: str) -> None:
    """Set axes up for horizontal bars, the first on top, without a y axis: names are written above the bars."""
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(label)


def group_name(axes: "Axes", y: float, name: str) -> None:
    """Write a name above a bar whose upper edge is at `y`."""
    transform = axes.get_yaxis_transform()
    text = axes.text(0.0, y, name, transform=transform, ha="left", va="bottom", fontweight="bold")
    text.set_in_layout(False)  # a long name must not squeeze the bars


def png(figure: "Figure") -> bytes:
    """The figure as a PNG with a white background, 150 pixels per inch."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150, facecolor=PAPER, metadata={"Software": None})
    return out.getvalue()


def inline_svg(figure: "Figure", name: str, label: str) -> str:
    """The figure as an <svg> element for the page; its colours are CSS variables, so that it follows the theme.

    `name` makes its ids unique on the page; `label`, which is escaped here, is the text for screen readers. Raises
    ReportError for an SVG of an unknown form.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{name}-", svg)
    for hexadecimal, variable in _variables().items():
        svg = svg.replace(hexadecimal, variable)
    size = re.search(r'viewBox="[^"]*"', svg)
    if size is None:
        raise ReportError("matplotlib wrote an SVG without viewBox; use the version in constraints.txt")
    body = svg[svg.index(">") + 1 :]
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size.group()} role="img" aria-label="{_attribute(label)}">{body}'


def theme_variables(*, dark: bool) -> Mapping[str, str]:
    """The CSS variables with the colours of contestants and of the parts of the time, by name without leading dashes.

    >>> theme_variables(dark=False)["c0"]
    '#0072b2'
    """
    palette, parts = (DARK_PALETTE, DARK_PART_COLOURS) if dark else (PALETTE, PART_COLOURS)
    return {f"c{i}": c for i, c in enumerate(palette)} | {f"part-{name}": c for name, c in parts.items()}


def _variables() -> dict[str, str]:
    named: dict[str, Any] = {value: f"var(--{name})" for name, value in theme_variables(dark=False).items()}
    return named | {INK: "currentColor", GRID: "var(--grid)", ALARM: "var(--alarm)", PAPER: "var(--paper)"}


def _attribute(value: str) -> str:
    from html import escape

    return escape(value, quote=True)
