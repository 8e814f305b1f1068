"""Writes the tables of the docs that are made of benchmarks/results/.

docs/performance.md has one per class of processor: a figure is the least and the median of a run's repeats, in seconds,
and of several runs of one model, dtype and workload on a class, the last by file name counts. docs/real_models.md has
one per model. `python benchmarks/performance_tables.py` writes both pages.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rmexport.bench.machine import CLASS_FLAGS

ROOT = Path(__file__).parent.parent
RESULTS, DOCS = ROOT / "benchmarks" / "results", ROOT / "docs"
END = "<!-- end -->"
NOT_RUN = "not run"
QUALITY_HEADER = (
    "| weights | layers | engine | computes in | error / deviation | Spearman | pairs flipped | weights, MB |"
)
WORDS = {"random": "random weights", "trained": "trained weights"}
Row = Mapping[str, Any]
Case = tuple[str, str, str, str]  # model, weights, dtype, workload


def main() -> None:
    for name in PAGES:
        page = DOCS / name
        page.write_text(with_tables(name, page.read_text(), RESULTS))


def with_tables(name: str, page: str, results: Path) -> str:
    """The text `page` of docs/`name` with new tables between its two marks. Raises ValueError where it has no marks."""
    pattern, write = PAGES[name]
    start = f"<!-- tables of benchmarks/results/{pattern}: begin -->"
    before, begin, rest = page.partition(start)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"found no place for the tables, expected the lines {start!r} and {END!r}")
    found = [json.loads(path.read_text()) for path in sorted(results.glob(pattern))]
    return f"{before}{start}\n\n{write(found)}\n\n{END}{after}"


def tables(results: Iterable[Mapping[str, Any]]) -> str:
    """A heading and a table for every class of processor, whether it was measured or not."""
    found: dict[str, list[Mapping[str, Any]]] = {name: [] for name in reversed(CLASS_FLAGS.values())}
    for result in results:
        found[result["machine"]["processor class"]].append(result)
    return "\n\n".join(section(name, runs) for name, runs in found.items())


def section(name: str, runs: list[Mapping[str, Any]]) -> str:
    """One class of processor."""
    heading = f"### {name}"
    if not runs:
        return f"{heading}\n\n{NOT_RUN}"
    rows = [row for run in runs for row in run["rows"]]
    contestants = list(dict.fromkeys(row["contestant"] for row in rows))
    cells: dict[Case, dict[str, str]] = {}
    for row in rows:
        key = (row["model"], row["weights"], row["dtype"], row["case"])
        cells.setdefault(key, {})[row["contestant"]] = cell(row)
    lines = ["| model | dtype | workload | " + " | ".join(contestants) + " |", "|---" * (3 + len(contestants)) + "|"]
    lines += [
        f"| {model}, {WORDS[weights]} | {dtype} | {case} | "
        + " | ".join(cells[model, weights, dtype, case].get(c, "-") for c in contestants)
        + " |"
        for model, weights, dtype, case in cells
    ]
    return f"{heading}\n\n{machines(runs)}\n\n" + "\n".join(lines)


def machines(runs: list[Mapping[str, Any]]) -> str:
    """What the runs ran on, each machine once."""
    return "\n".join(
        dict.fromkeys(
            f"{m['cpu']}, {m['cores']} cores, {m['memory']}; onnxruntime {m['onnxruntime']}, openvino {m['openvino']}."
            + ("" if run["complete"] else " The run was stopped early.")
            for run in runs
            for m in [run["machine"]]
        )
    )


def _difference(parity: Row) -> str:
    """Beyond the tolerance of `rmexport bench`, which does not say whose scores are off."""
    largest = parity["max_abs"]
    return " (scores not finite)" if largest is None else f" (differs by {largest:.2g})"


def cell(row: Row) -> str:
    """Least and median seconds; what went wrong instead, or beside them where scores differ."""
    if not row["seconds"]:
        return str(row["status"])
    parity = row.get("parity")
    wrong = _difference(parity) if parity and not parity["same"] else ""
    return f"{row['min']:.3f} / {row['median']:.3f}{wrong}"


def quality_tables(results: Iterable[Mapping[str, Any]]) -> str:
    """Of bench_real_models.py: a heading and a table for every model."""
    found: dict[str, list[Row]] = {}
    for result in results:
        for row in result["rows"]:
            found.setdefault(row["model"], []).append(row)
    return "\n\n".join(f"### {model}\n\n{quality_table(rows)}" for model, rows in found.items())


def quality_table(rows: Iterable[Row]) -> str:
    """A row of the table for every way to score."""
    lines = [QUALITY_HEADER, "|" + "---|" * QUALITY_HEADER.count(" |")]
    for row in rows:
        quality, size = row["quality"], row["megabytes"]
        share = quality["mean_error"] / quality["deviation"]
        cells = [
            *(row[name] for name in ("weights", "layers", "engine", "precision")),
            f"{share:.2g}" if share >= 1e-4 else f"{share:.0e}",  # they span five orders of magnitude
            f"{quality['spearman']:.5f}",
            f"{quality['flipped']} of {quality['pairs']}",
            "" if size is None else f"{size:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# For every page of docs/: the results that it has tables of, and what writes them.
PAGES: Mapping[str, tuple[str, Callable[[Iterable[Mapping[str, Any]]], str]]] = {
    "performance.md": ("peers*.json", tables),
    "real_models.md": ("real-models*.json", quality_tables),
}

if __name__ == "__main__":
    main()
