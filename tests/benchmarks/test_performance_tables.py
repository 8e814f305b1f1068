"""The tables of the docs are those of benchmarks/results, and every result names its processor's class."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from performance_tables import DOCS, PAGES, RESULTS, cell, tables, with_tables

from rmexport.bench.machine import CLASS_FLAGS, NOT_RECORDED, processor_class

CLASSES = (*CLASS_FLAGS.values(), NOT_RECORDED)


def row(contestant: str, seconds: list[float], **more: Any) -> dict[str, Any]:
    return {
        "model": "m", "weights": "random", "dtype": "fp32", "case": "ragged", "contestant": contestant,
        "status": "ok", "seconds": seconds, "min": min(seconds, default=None), "median": max(seconds, default=None),
    } | more  # fmt: skip


def result(*rows: dict[str, Any], of: str = "AVX2", complete: bool = True) -> dict[str, Any]:
    machine = {"cpu": "a processor", "processor class": of, "cores": "2", "memory": "24 GiB"}
    return {"machine": machine | {"onnxruntime": "1", "openvino": "2"}, "complete": complete, "rows": list(rows)}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_has_the_tables_of_the_results(name: str) -> None:
    page = (DOCS / name).read_text()
    assert with_tables(name, page, RESULTS) == page, "run python benchmarks/performance_tables.py"


@pytest.mark.parametrize("path", sorted(RESULTS.iterdir()), ids=lambda path: path.name)
def test_every_result_says_the_class_that_its_machine_has(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r'processor class"?: "?([^"\n]+)', text)
    assert named and set(named) <= set(CLASSES)
    if path.suffix == ".json":
        machine = json.loads(text)["machine"]
        assert machine["processor class"] == named[0]
    listed = re.search(r'cpu"?: .*\(([^()]*)\)"?,?$', text, re.M)
    assert named[0] == (processor_class(listed[1].split(", ")) if listed else NOT_RECORDED)


def test_each_class_has_its_table_or_says_that_nothing_was_run() -> None:
    text = tables([result(row("ours", [1.0, 2.0]), row("theirs", [], status="failed"), of="AVX-512")])
    avx2, avx512, *others = re.split(r"^### ", text, flags=re.M)[1:]
    assert avx2 == "AVX2\n\nnot run\n\n" and all(other.strip().endswith("not run") for other in others)
    assert [other.splitlines()[0] for other in others] == ["AVX-512 BF16", "AMX"]
    assert "| m, random weights | fp32 | ragged | 1.000 / 2.000 | failed |" in avx512


def test_of_two_runs_of_one_case_the_later_counts_and_an_early_end_is_said() -> None:
    text = tables([result(row("ours", [1.0])), result(row("ours", [3.0]), complete=False)])
    assert "3.000 / 3.000" in text and "1.000" not in text and "stopped early" in text


def test_wrong_scores_show() -> None:
    differs = {"same": False, "max_abs": 0.25}
    assert cell(row("theirs", [1.0], parity=differs)) == "1.000 / 1.000 (differs by 0.25)"
    assert cell(row("theirs", [1.0], parity=differs | {"max_abs": None})) == "1.000 / 1.000 (scores not finite)"


def test_a_page_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="found no place"):
        with_tables("performance.md", "# Performance\n", RESULTS)
