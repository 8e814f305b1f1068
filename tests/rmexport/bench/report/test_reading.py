"""read_report: what it gives back, and what it says about files that are no reports."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmexport.bench.report import ReportError, read_report


def saved(folder: Path, content: object) -> Path:
    path = folder / "report.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_gives_back_what_was_written(tmp_path: Path, any_report: dict[str, Any]) -> None:
    assert read_report(saved(tmp_path, any_report)) == any_report


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a JSON list, expected the report.json"),
        ("[" * 100_000, "not valid JSON"),
        ({"scores": []}, "has no schema_version; expected the report.json"),
        ({"schema_version": 2}, "schema_version 2, this rmexport reads 1; use the rmexport that wrote it"),
        ({"schema_version": "one"}, "schema_version 'one', expected 1"),
        ({"schema_version": True}, "schema_version True, expected 1"),
    ],
)
def test_other_files(tmp_path: Path, content: object, words: str) -> None:
    with pytest.raises(ReportError, match=words):
        read_report(saved(tmp_path, content))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"report\.json cannot be read: No such file"):
        read_report(tmp_path / "report.json")


def test_every_fault_is_named(tmp_path: Path, samples: Callable[[str], dict[str, Any]]) -> None:
    report = samples("full")
    del report["bundle"]
    report["machine"] = "a laptop"
    report["contestants"][0]["scenarios"][0]["scenario"] = "multi-stream"
    del report["contestants"][1]["name"]
    report["contestants"].append("vllm")
    report["workload"]["lengths"]["edges"] = [0, 64]
    with pytest.raises(ReportError) as error:
        read_report(saved(tmp_path, report))
    for words in (
        "'bundle' is missing",
        "'machine' is a str, expected dict",
        "contestants[0].scenarios[0] is 'multi-stream', expected one of single-stream, server, offline",
        "contestants[1] has no text 'name'",
        "contestants[3] is a str, expected dict",
        "2 edges for 16 counts",
    ):
        assert words in str(error.value)
