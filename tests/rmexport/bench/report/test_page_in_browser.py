"""The page in headless Chromium: it loads without errors, shows every plot, and fits a phone and a desktop."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from rmexport.bench.report import write_report

CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")

# The page itself allows no script, so a page around it measures: what overflows, and what its plots look like.
MEASURE = """<!DOCTYPE html><body style="margin:0">
<iframe src="report.html" style="width:{width}px;height:900px;border:0">
</iframe><pre></pre><script>
const frame = document.querySelector("iframe");
frame.onload = () => {{
  const page = frame.contentDocument, view = frame.contentWindow;
  const inside = (e) => e.closest(".scroll") !== null && !e.classList.contains("scroll");
  const box = (e) => e.getBoundingClientRect();
  const shown = [...page.querySelectorAll(".plot")].filter((e) => box(e).width > 0);
  document.querySelector("pre").textContent = JSON.stringify({{
    scroll_width: page.documentElement.scrollWidth,
    width: view.innerWidth,
    background: view.getComputedStyle(page.body).backgroundColor,
    ink: view.getComputedStyle(page.body).color,
    outside: [...page.querySelectorAll("body *")].filter((e) => !inside(e) && !e.closest("svg") &&
      box(e).right > view.innerWidth + 1).map((e) => e.outerHTML.slice(0, 80)),
    plots: shown.map((e) => e.parentElement.id + "-" + e.className.split(" ")[1]),
    heights: shown.map((e) => box(e.firstElementChild).height),
    cut: shown.flatMap((e) => [...e.querySelectorAll("text")].filter((t) => box(t).width > 0 &&
      (box(t).right > box(e).right + 1 || box(t).left < box(e).left - 1)).map((t) => t.textContent)),
    smallest_text: Math.min(...shown.flatMap((e) => [...e.querySelectorAll("text")].map((t) => box(t).height))),
    loaded: performance.getEntriesByType("resource").map((r) => r.name)
      .concat(view.performance.getEntriesByType("resource").map((r) => r.name)),
  }});
}};
</script>"""


def chromium(folder: Path, page: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
               "--virtual-time-budget=5000", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}",
               *arguments, page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)


def measured(folder: Path, width: int, *arguments: str) -> dict[str, Any]:
    page = folder / f"measure-{width}.html"
    page.write_text(MEASURE.format(width=width))
    done = chromium(folder, page, "--window-size=1600,1000", "--dump-dom", *arguments)
    assert "CONSOLE" not in done.stderr  # neither script errors nor what the page's own policy refused
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, flags=re.DOTALL)
    assert found and found.group(1), done.stdout[-2000:]
    facts: dict[str, Any] = json.loads(unescape(found.group(1)))
    return facts


@pytest.fixture(scope="module")
def folder(samples: Callable[[str], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a report with everything in it: failures, wrong scores, a long name, a partial run."""
    made: Path = tmp_path_factory.mktemp("page")
    report = samples("failed")
    report |= {"complete": False, "stopped": "interrupted"}
    report["contestants"][2]["parity"]["same"] = False
    report["contestants"].append({**report["contestants"][1], "name": "bundle:/home/someone/bundles/a-long-name-int8"})
    report["bundle"]["name"] = "a-long-name-without-any-space-to-break-it-at-as-checkpoints-have-them"
    write_report(report, made)
    return made


@pytest.mark.parametrize(("width", "shape"), [(390, "narrow"), (1400, "wide")])
def test_fits_its_window(folder: Path, width: int, shape: str) -> None:
    facts = measured(folder, width)
    assert facts["width"] == width
    assert facts["scroll_width"] <= width and facts["outside"] == []
    names = ("offline_throughput", "single_stream_latency", "server_latency", "time_split", "workload_lengths")
    assert facts["plots"] == [f"{name}-{shape}" for name in names]
    assert min(facts["heights"]) > 100
    assert facts["cut"] == []
    assert facts["smallest_text"] >= 11  # pixels of a line
    assert [name for name in facts["loaded"] if not name.endswith("/report.html")] == []


def test_dark_theme(folder: Path) -> None:
    light, dark = measured(folder, 390), measured(folder, 390, "--blink-settings=preferredColorScheme=0")
    assert (light["background"], light["ink"]) == ("rgb(246, 247, 248)", "rgb(27, 31, 36)")
    assert (dark["background"], dark["ink"]) == ("rgb(18, 22, 26)", "rgb(228, 231, 234)")


def test_shows_the_contestants_colours(folder: Path, tmp_path: Path) -> None:
    """A screenshot holds a bar of each contestant that has results, in its own colour."""
    from matplotlib.image import imread

    from rmexport.bench.report.figures import PALETTE

    picture = tmp_path / "page.png"
    chromium(folder, folder / "report.html", "--window-size=1400,1400", f"--screenshot={picture}")
    pixels = (imread(picture)[..., :3] * 255).round().astype(int)  # [height, width, 3]
    for place in (0, 1, 2, 5):
        wanted = [int(PALETTE[place][i : i + 2], 16) for i in (1, 3, 5)]
        assert int((abs(pixels - wanted).max(axis=-1) <= 2).sum()) > 1000
