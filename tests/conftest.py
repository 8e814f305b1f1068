"""One thread a process, and what a run of part of the tests says about the rest."""

import os

# Tiny models gain nothing from a second thread, and threads that wait for one another spin: where tests run side by
# side, torch's took twelve times the processor time of one. Before anything imports torch or numpy; children inherit.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

from collections.abc import Sequence
from typing import Any

import pytest

LADDER = "ladder"  # the marker of what only `./scripts/test --all` runs
LEFT_OUT = pytest.StashKey[int]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what was left out for its marker; in a worker of pytest-xdist, to be told to the process that reports."""
    count = sum(item.get_closest_marker(LADDER) is not None for item in items)
    if count:
        _add(items[0].config, count)


def _add(config: pytest.Config, count: int) -> None:
    config.stash[LEFT_OUT] = config.stash.get(LEFT_OUT, 0) + count


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Workers only: xdist hands this dictionary to `pytest_testnodedown`."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[LADDER] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker collects all tests and leaves out the same."""
    count = getattr(node, "workeroutput", {}).get(LADDER, 0)
    node.config.stash[LEFT_OUT] = max(count, node.config.stash.get(LEFT_OUT, 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The last lines: how many tests of the ladder were left out, and how to run them."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{count} tests of the whole ladder were left out; ./scripts/test --all runs them")
