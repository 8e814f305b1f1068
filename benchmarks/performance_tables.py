"""Writes the tables of docs/performance.md that are made of benchmarks/results/: one per class of processor.

A figure is the least and the median of a run's repeats, in seconds. Of several runs of one model, dtype and workload on
a class, the last by file name counts. `python benchmarks/performance_tables.py` writes the page.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rmexport.bench.machine import CLASS_FLAGS

ROOT = Path(__file__).parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- tables of benchmarks/results/peers*.json: begin -->", "<!-- end -->"
NOT_RUN = "not run"
WORDS = {"random": "random weights", "trained": "trained weights"}
Row = Mapping[str, Any]
Case = tuple[str, str, str, str]  # model, weights, dtype, workload


def main() -> None:
    PAGE.write_text(with_tables(PAGE.read_text(), read_results(RESULTS)))


def read_results(folder: Path) -> list[Mapping[str, Any]]:
    """What bench_peers.py wrote, in the order of file names."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("peers*.json"))]


def with_tables(page: str, results: Iterable[Mapping[str, Any]]) -> str:
    """`page` with new tables between its two marks. Raises ValueError where it has no such marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"found no place for the tables, expected the lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}"


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


if __name__ == "__main__":
    main()
