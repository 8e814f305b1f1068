"""Processes of their own: what needs torch or an engine runs in one, so that its device memory ends with it."""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rmexport.bench.worker_process import WorkerProcess
from rmexport.errors import ContestantError

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


class TimedWorker(WorkerProcess):
    """A contestant's process, of which every answer must come before the budget is spent."""

    def __init__(self, module: Path, budget: Budget) -> None:
        """Raises OutOfTime before anything is started."""
        self._budget = budget
        super().__init__(sys.executable, module, budget.left)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The reply to a command. Raises ContestantError as its base does, and OutOfTime."""
        self._timeout_s = self._budget.left
        try:
            return super().ask(do, **arguments)
        except ContestantError:
            _ = self._budget.left  # what was ended for want of time is no failure
            raise


def make_importable() -> None:
    """Let children import this checkout and load CUDA's libraries, wherever either lies.

    ONNX Runtime looks for CUDA's packages beside itself alone, and on the loader's path: where it is installed in
    another folder than they are, it finds them in a process that has imported torch, and in no other.
    """
    _extend("PYTHONPATH", [str(BENCHMARKS), str(ROOT), str(ROOT / "runtime")])
    found = importlib.util.find_spec("nvidia")
    roots = found.submodule_search_locations if found is not None else None
    _extend("LD_LIBRARY_PATH", sorted(str(path) for root in roots or () for path in Path(root).glob("*/lib")))


def _extend(variable: str, folders: list[str]) -> None:
    """Put folders before those that an environment variable names."""
    value = os.pathsep.join(part for part in (*folders, os.environ.get(variable, "")) if part)
    if value:
        os.environ[variable] = value


def run_json(module: str, arguments: list[str], budget: Budget, accept: tuple[int, ...] = (0,)) -> Any:
    """The JSON object that `python -m module arguments` prints last. Raises ChildFailed, OutOfTime."""
    try:
        done = _run([sys.executable, "-m", module, *arguments], budget.left)
    except subprocess.TimeoutExpired as error:
        raise OutOfTime(f"{module} was ended when the budget was spent") from error
    start = re.search(r"^\{", done.stdout, re.MULTILINE)  # libraries print before it
    if done.returncode not in accept or start is None:
        raise ChildFailed(f"{module} exited with {done.returncode}: {(done.stderr or done.stdout).strip()[-TAIL:]}")
    return json.loads(done.stdout[start.start() :])


def _run(command: list[str], seconds: float) -> "subprocess.CompletedProcess[str]":
    """As subprocess.run, but what the process started ends with it: it may hold the device's memory."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)
