"""The first half hour on a GPU, rehearsed: every step runs here, with tiny models, over the stub."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cuda_stub

FIRST_RUN = Path(__file__).parent.parent.parent / "benchmarks" / "gpu" / "first_run.py"


def test_every_step_can_be_rehearsed(tmp_path: Path) -> None:
    """In order, as there: later steps use what earlier ones made."""
    for step in "ABCDEF":
        command = [sys.executable, str(FIRST_RUN), step, "--work", str(tmp_path), "--rehearse"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        records: dict[str, Any] = json.loads((tmp_path / "out" / "first-run.json").read_text())
        failed = {name: found for name, found in records[step].items() if found["status"] != "ok"}
        assert done.returncode == 0 and not failed, (step, failed, done.stderr)
    assert [set(found) for found in records["F"]["graph"]["found"]["found"]] == [
        {"variant", "p50_ms", "p99_ms", "tokens"}
    ] * 2
    figures = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert figures["rehearsal"] and set(figures["probes"]) >= {"linear", "fused", "attention", "packed", "fp8"}
    for kind in ("packed", "fp8"):
        assert all("seconds" in record for record in figures["probes"][kind])
    paged = [r for r in figures["probes"]["attention"] if r["variant"].startswith("PagedAttention")]
    assert len(paged) == 2 and all("seconds" in record for record in paged)
    assert {r["name"] for r in figures["contestants"]["8b"]} >= {"ort-cuda-paged", "ort-cuda"}
    assert len(figures["load"]) == 2 and not any("message" in record for record in figures["load"])
