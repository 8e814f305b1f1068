"""`benchmarks/bench_serve.py` measures a tiny bundle."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rmexport import export
from tiny_checkpoints import sequence_classifier

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bench_serve.py"


def test_it_prints_both_medians(made_once: Callable[[str, Callable[[Path], None]], Path]) -> None:
    def make(folder: Path) -> None:
        export(str(sequence_classifier(folder / "c").folder), folder / "b")

    command = [sys.executable, str(SCRIPT), str(made_once("served-classifier", make) / "b"), "--requests", "40"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"rm\.score\(\) [\d.]+ ms, server [\d.]+ ms, overhead -?[\d.]+ ms \(.*\)\n", found.stdout)
