"""One thread a process, a cache folder and folders that a run shares, and what a run of a part says about the rest."""

import atexit
import fcntl
import gc
import importlib.util
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Tiny models gain nothing from a second thread, and threads that wait for one another spin: where tests run side by
# side, torch's took twelve times the processor time of one. Before anything imports torch or numpy; children inherit.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

# The user's own cache folder is left alone. pytest-xdist's workers inherit the first process's environment, and share
# its folder. matplotlib keeps its own place, where its list of fonts is: making that anew takes seconds. Checkpoints of
# published weights, which take minutes, are kept too.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("MPLCONFIGDIR", str(_cache / "matplotlib"))
    os.environ.setdefault("RMEXPORT_REAL_MODELS", str(_cache / "rmexport" / "real-models"))
    os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="rmexport-tests-")
    atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# No test depends on a time: on a busy machine an example, or making one, may take any. A fixture of a function is
# made once for all examples, which is what the tests that have one want.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("tests")


def pytest_collection_finish() -> None:
    """The modules of torch and transformers, half a million objects, stay: the garbage collector need not visit them.

    Without this it does so once for every few exports, as graphs are made of many objects that refer to one another.
    """
    gc.freeze()
    if importlib.util.find_spec("onnxruntime") is not None:
        _give_sessions_one_thread()


def _give_sessions_one_thread() -> None:
    """ONNX Runtime's sessions have one thread unless a test asks for more.

    By default it has one per core, and those that wait for work spin: loading and scoring a tiny model took twice the
    processor time.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession
    make = session.__init__

    def make_with_one(self: Any, path_or_bytes: Any, sess_options: Any = None, *arguments: Any, **named: Any) -> None:
        options = onnxruntime.SessionOptions() if sess_options is None else sess_options
        options.intra_op_num_threads = options.intra_op_num_threads or 1
        make(self, path_or_bytes, options, *arguments, **named)

    session.__init__ = make_with_one


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Random weights of a tiny model are the same whatever tests ran before; torch's first seed is a constant too."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


LADDER = "ladder"  # the marker of what only `./scripts/test --all` runs
REAL = "real"  # of what only `./scripts/test --real` runs
CUDA_STUB = "cuda_stub"  # of what only `./scripts/test --cuda-stub` runs
ASKED = (REAL, CUDA_STUB)  # what they need is on no machine unasked
LINES = {
    LADDER: "{} tests of the whole ladder were left out; ./scripts/test --all runs them",
    REAL: "{} tests on published weights were left out; ./scripts/test --real runs them",
    CUDA_STUB: "{} tests on stubs of CUDA were left out; ./scripts/test --cuda-stub runs them",
}
LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Leave out the tests marked with one of ASKED unless `-m` names it."""
    config.stash[LEFT_OUT] = Counter()
    given = config.option.markexpr.split()
    for name in (name for name in ASKED if name not in given):
        before = f"({config.option.markexpr}) and " if config.option.markexpr else ""
        config.option.markexpr = f"{before}not {name}"


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what was left out for its marker; in a worker of pytest-xdist, to be told to the process that reports."""
    for item in items:
        item.config.stash[LEFT_OUT].update(name for name in LINES if item.get_closest_marker(name) is not None)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Workers only: xdist hands this dictionary to `pytest_testnodedown`."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker collects all tests and leaves out the same."""
    node.config.stash[LEFT_OUT] |= Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The last lines: how many tests were left out, and how to run them."""
    for name, count in sorted(config.stash[LEFT_OUT].items()):
        if f"not {name}" in config.option.markexpr:  # else they were left out for another reason, such as -k
            terminalreporter.write_line(LINES[name].format(count))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A folder by name, filled by `make` in the first process of the run that asks for it; to be read, not written.

    A `make` that fails leaves nothing that counts, and the next process tries again.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder(name: str, make: Callable[[Path], None]) -> Path:
        made = base / "made-once" / name
        made.parent.mkdir(exist_ok=True)
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not made.exists():
                partial = Path(tmp_path_factory.mktemp(name))
                make(partial)
                partial.rename(made)
        return made

    return folder
