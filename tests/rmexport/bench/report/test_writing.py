"""write_report: which files there are, what the page says, and that nothing in a report can break it."""

import re
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rmexport.bench.report import ReportError, write_report, writing

Samples = Callable[[str], dict[str, Any]]
PLOTS = {"offline_throughput", "single_stream_latency", "server_latency", "time_split", "workload_lengths"}
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Text, tags and attributes of a page; fails on tags that do not nest."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "text"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(report: dict[str, Any], folder: Path) -> Page:
    write_report(report, folder)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Written:
    """A report's folder, which tests only read, and its page."""

    folder: Path
    page: Page
    source: str


@pytest.fixture(scope="module")
def sample_pages(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Written]:
    """The samples' pages by name, each written once."""

    @cache
    def of(name: str) -> Written:
        folder = tmp_path_factory.mktemp("page")
        page = written(samples(name), folder)
        return Written(folder, page, (folder / "report.html").read_text(encoding="utf-8"))

    return of


def plots_in(folder: Path) -> set[str]:
    return {p.stem for p in folder.glob("*.png")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("full", PLOTS),
        ("partial", {"single_stream_latency", "workload_lengths"}),
        ("empty", set()),
    ],
)
def test_only_plots_whose_data_is_there(sample_pages: Callable[[str], Written], name: str, expected: set[str]) -> None:
    folder, page = sample_pages(name).folder, sample_pages(name).page
    assert plots_in(folder) == expected
    assert {a["id"] for t, a in page.tags if t == "figure"} == expected
    assert all(p.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for p in folder.glob("*.png"))
    assert {p.suffix for p in folder.iterdir()} <= {".png", ".html"}  # no temporary file is left


def test_a_plot_of_an_earlier_report_goes(
    samples: Samples, sample_pages: Callable[[str], Written], tmp_path: Path
) -> None:
    shutil.copytree(sample_pages("full").folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mine.png").write_bytes(b"")
    write_report(samples("partial"), tmp_path)
    assert plots_in(tmp_path) == {"single_stream_latency", "workload_lengths", "mine"}


def test_the_same_report_gives_the_same_bytes(
    samples: Samples, sample_pages: Callable[[str], Written], tmp_path: Path
) -> None:
    write_report(samples("full"), tmp_path)
    first = sample_pages("full").folder
    assert {file.name for file in first.iterdir()} == {file.name for file in tmp_path.iterdir()}
    for file in first.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_the_page_refers_to_nothing_outside(sample_pages: Callable[[str], Written]) -> None:
    page, source = sample_pages("full").page, sample_pages("full").source
    assert not {t for t, _ in page.tags} & {"script", "link", "img", "iframe", "object"}
    assert not [a for _, a in page.tags if "src" in a]
    for _, attributes in page.tags:
        for key in ("href", "xlink:href"):
            assert (attributes.get(key) or "#").startswith("#")
    assert not re.search(r"@import|url\((?!#)", source)


def test_ids_are_unique_and_every_reference_is_met(sample_pages: Callable[[str], Written]) -> None:
    page, source = sample_pages("full").page, sample_pages("full").source
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {*re.findall(r"url\(#([^)]*)\)", source), *re.findall(r'href="#([^"]*)"', source)} <= set(ids)


def test_the_svgs_are_well_formed_and_follow_the_theme(sample_pages: Callable[[str], Written]) -> None:
    svgs = re.findall(r"<svg.*?</svg>", sample_pages("full").source, flags=re.DOTALL)
    assert len(svgs) == 2 * len(PLOTS)
    for svg in svgs:
        ET.fromstring(svg.replace("xlink:href", "href"))
        # Every colour is a variable or the text's: a fixed one would be lost on one of the two backgrounds.
        assert re.findall(r"#[0-9a-f]{6}\b", svg) == []


@pytest.mark.parametrize(
    "words",
    [
        "9f" * 32, "c0" * 32, "Intel(R) Xeon(R) Platinum 8581C", "amx_bf16", "25.0 GB",
        "load average before the run 0.120",
        "requests of a warm-up window, not counted 5", "seed 0", "openvino, bf16, batches of at most 4096 tokens",
        "2026.4.1",
        "2.61 TFLOP/s in bf16 (2048×4096×4096, torch 2.13.0)", "36,864", "77.8 %", "0.99980", "0 of 64", "71.0 %",
        "rmexport bench bundles/llama-426m --checkpoint llama-426m", "Poisson", "peak anonymous memory",
    ],
)  # fmt: skip
def test_what_a_reader_needs_to_trust_it(full_page: Page, words: str) -> None:
    assert words in full_page.text


@pytest.fixture(scope="module")
def full_page(sample_pages: Callable[[str], Written]) -> Page:
    return sample_pages("full").page


def test_the_verdict_is_against_the_fastest_peer(full_page: Page, samples: Samples) -> None:
    ratios = [c["ratio"] for c in samples("full")["comparisons"] if c["scenario"] == "offline"]
    assert f"offline {min(ratios):.2f}× as fast as transformers-kv by conversations/s" in full_page.text


def notices(page: Page) -> list[str | None]:
    return [a["class"] for t, a in page.tags if t == "p" and (a.get("class") or "").startswith("notice")]


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what the page says in words: drawing is nearly all the time that a report takes."""
    monkeypatch.setattr(writing, "PLOTS", ())


@pytest.mark.usefixtures("no_plots")
def test_banners(samples: Samples, tmp_path: Path) -> None:
    assert notices(written(samples("full"), tmp_path)) == []
    partial = written(samples("partial"), tmp_path)
    assert notices(partial) == ["notice bad"] and "PARTIAL REPORT interrupted" in partial.text
    wrong = written(samples("wrong scores"), tmp_path)
    assert notices(wrong) == ["notice bad"] and "WRONG SCORES: transformers-kv max abs difference 3.20" in wrong.text
    failed = written(samples("failed"), tmp_path)
    assert notices(failed) == ["notice bad", "notice warning"]


@pytest.mark.usefixtures("no_plots")
def test_a_percentile_of_too_few_samples_is_marked(samples: Samples, tmp_path: Path) -> None:
    report = samples("full")
    p999 = report["contestants"][0]["scenarios"][0]["latency_ms"]["p99.9"]
    assert f"{p999:.1f}*" in written(report, tmp_path).text
    report["contestants"][0]["scenarios"][0]["latency_ms"]["count"] = 1000
    assert f"{p999:.1f}*" not in written(report, tmp_path).text.partition("Server")[0]


NASTY = '</svg><script>alert(1)</script> "q" & $x^2$ \x00\x1b[31m \\frac{ 採点 ]]> -->'


def poisoned(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v if k in ("scenario", "status", "measure") else poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v) for v in value]
    return value + NASTY if isinstance(value, str) else value


def test_nothing_in_a_report_breaks_the_page(samples: Samples, tmp_path: Path) -> None:
    page = written(poisoned(samples("failed")), tmp_path)
    assert plots_in(tmp_path) == PLOTS
    assert "script" not in {t for t, _ in page.tags}
    assert "alert(1)" in page.text


def test_any_figure_may_be_missing(samples: Samples, tmp_path: Path) -> None:
    def hollow(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: hollow(v) for k, v in value.items()}
        if isinstance(value, list):
            return [hollow(v) for v in value]
        return value if isinstance(value, str | bool) else None

    report = hollow(samples("failed")) | {"schema_version": 1}
    report["workload"]["lengths"] = None
    page = written(report, tmp_path)
    assert plots_in(tmp_path) == set()
    assert "transformers" in page.text


def test_figures_that_are_not_finite_are_not_drawn(samples: Samples, tmp_path: Path) -> None:
    report = samples("full")
    report["contestants"][1]["scenarios"][2]["conversations_per_s"] = float("nan")
    report["contestants"][1]["scenarios"][0]["latency_ms"]["p99.9"] = float("inf")
    report["contestants"][1]["scenarios"][0]["repeat_p50_ms"] = [None, 1.0, float("nan")]
    written(report, tmp_path)
    assert plots_in(tmp_path) == PLOTS


@pytest.mark.ladder
def test_many_contestants(samples: Samples, tmp_path: Path) -> None:
    """More than there are colours, with long names."""
    report = samples("full")
    peer = report["contestants"][1]
    report["contestants"] += [{**peer, "name": f"bundle:/a/very/long/path/to/some/bundle/number-{i}"} for i in range(9)]
    page = written(report, tmp_path)
    assert page.text.count("number-8") > 3


def test_matplotlib_settings_are_left_alone(samples: Samples, tmp_path: Path) -> None:
    import matplotlib

    names = [name for name in matplotlib.rcParams if name != "backend"]  # to read the backend is to choose one
    before = [matplotlib.rcParams[name] for name in names]
    write_report(samples("full"), tmp_path)
    assert [matplotlib.rcParams[name] for name in names] == before


def test_without_matplotlib(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ReportError, match=r"pip install 'rmexport\[bench\]'"):
        write_report(samples("full"), tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


def test_a_folder_that_cannot_be_made(samples: Samples, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="cannot be written"):
        write_report(samples("empty"), tmp_path / "file" / "pages")


def test_a_report_that_cannot_be_drawn(samples: Samples, tmp_path: Path) -> None:
    report = samples("full")
    del report["machine"]
    with pytest.raises(ReportError, match="'machine' is missing"):
        write_report(report, tmp_path)
