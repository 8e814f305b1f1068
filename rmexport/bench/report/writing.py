"""Writes the HTML page and the plots into the folder of the JSON report."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from rmexport.bench.report.fields import Report
from rmexport.bench.report.figures import NARROW, WIDE, drawing, inline_svg, png, require_matplotlib
from rmexport.bench.report.page import DrawnPlot, html
from rmexport.bench.report.plots import PLOTS, Plot
from rmexport.bench.report.reading import check_version, faults
from rmexport.errors import ReportError
from rmruntime.records.pending_file import partial_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"


def write_report(report: Report, folder: str | Path) -> None:
    """Write report.html and one PNG per plot into `folder`, which is created if needed.

    Plots without data in the report are left out, and their PNGs of an earlier report in the same folder removed.
    Raises ReportError when matplotlib is missing, the report cannot be drawn, or the files cannot be written.
    """
    require_matplotlib()
    check_version(report, "the report")
    if found := faults(report):
        raise ReportError(f"the report cannot be drawn: {'; '.join(found)}; measure again")
    images: dict[str, bytes] = {}
    drawn = []
    with drawing():
        for plot in PLOTS:
            wide, narrow = plot.draw(report, WIDE), plot.draw(report, NARROW)
            if wide is not None and narrow is not None:
                images[plot.file] = png(wide)
                drawn.append(_drawn(plot, wide, narrow))
    _write(Path(folder), {PAGE: html(report, drawn).encode(), **{f"{k}.png": v for k, v in images.items()}})
    for plot in PLOTS:
        if plot.file not in images:
            (Path(folder) / f"{plot.file}.png").unlink(missing_ok=True)


def _drawn(plot: Plot, wide: "Figure", narrow: "Figure") -> DrawnPlot:
    return DrawnPlot(
        file=plot.file,
        title=plot.title,
        caption=plot.caption,
        wide=Markup(inline_svg(wide, f"{plot.file}-wide", plot.title)),  # matplotlib escapes the texts in it
        narrow=Markup(inline_svg(narrow, f"{plot.file}-narrow", plot.title)),
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write each file under a temporary name and rename it, so that a reader never sees half a file."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            temporary = partial_path(folder / name)
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                os.replace(temporary, folder / name)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(
            f"{error.filename or folder} cannot be written: {error.strerror}; make room, or choose another --output"
        ) from error
