"""Processes of their own: what needs torch or an engine runs in one, so that its device memory ends with it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent.parent
ROOT = BENCHMARKS.parent
TAIL = 2000  # characters of what a failed process wrote


class ChildFailed(Exception):
    """A process ended badly or took too long; the message holds the end of what it wrote."""


class OutOfTime(Exception):
    """The budget is spent."""


class Budget:
    """Seconds of wall clock for the whole run."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds. Raises OutOfTime when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise OutOfTime
        return seconds


def make_importable() -> None:
    """Let children import this checkout, which need not be installed."""
    parts = [str(BENCHMARKS), str(ROOT), str(ROOT / "runtime"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(part for part in parts if part)


def run_json(module: str, arguments: list[str], budget: Budget, accept: tuple[int, ...] = (0,)) -> Any:
    """The JSON that `python -m module arguments` prints last. Raises ChildFailed, OutOfTime."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=budget.left)
    except subprocess.TimeoutExpired as error:
        raise OutOfTime(f"{module} was ended when the budget was spent") from error
    if done.returncode not in accept:
        raise ChildFailed(f"{module} exited with {done.returncode}: {(done.stderr or done.stdout).strip()[-TAIL:]}")
    return json.loads(done.stdout[done.stdout.index("{") :])
