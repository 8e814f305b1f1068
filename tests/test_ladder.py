"""./scripts/test: what it hands to pytest, and that a run of a part says how much it left out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PART = ["-m", "not ladder"]
TESTS = """
import os
import pytest

def test_always():
    assert os.environ["OMP_NUM_THREADS"] == "1"

@pytest.mark.ladder
@pytest.mark.parametrize("i", range(3))
def test_rarely(i):
    pass

@pytest.mark.real
def test_on_published_weights():
    pass

@pytest.mark.cuda_stub
def test_on_stubs():
    pass
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """scripts/test beside an install that does nothing and a Python that tells its arguments."""
    for path, code in (("scripts/install", "exit 0"), ("venv/bin/python", 'printf "%s\\n" "$@"')):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"#!/usr/bin/env bash\n{code}\n")
        (tmp_path / path).chmod(0o755)
    return Path(shutil.copy(ROOT / "scripts" / "test", tmp_path / "scripts" / "test"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], [*PART, "--numprocesses", "2", "--dist", "loadfile"]),
        (["--all"], ["--numprocesses", "2", "--dist", "loadfile"]),
        (["-k", "moe and not fp16"], [*PART, "-k", "moe and not fp16"]),
        (["--all", "-k", "moe"], ["-k", "moe"]),
        (["-k", "moe", "--all", "-x"], ["-k", "moe", "-x"]),
        (["--real"], ["-m", "real", "tests/real", "--numprocesses", "2", "--dist", "loadfile"]),
        (["-k", "int4", "--real"], ["-m", "real", "tests/real", "-k", "int4"]),
        (["--cuda-stub", "-x"], ["-m", "cuda_stub", "tests/cuda_stub", "-x"]),
    ],
)
def test_three_options_are_the_scripts_and_the_rest_is_pytests(
    script: Path, given: list[str], expected: list[str]
) -> None:
    environment = {**os.environ, "RMEXPORT_VENV": str(script.parent.parent / "venv")}
    done = subprocess.run([script, *given], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["-m", "pytest", *expected]


@pytest.mark.parametrize("processes", [[], pytest.param(["--numprocesses", "2"], marks=pytest.mark.ladder)])
def test_what_was_left_out_is_said(tmp_path: Path, processes: list[str]) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS)
    markers = "ladder: rarely\n real: when asked\n cuda_stub: when asked\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nmarkers =\n {markers}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *processes, str(tmp_path)]
    said = [
        subprocess.run([*command, *more], env=environment, capture_output=True, text=True, check=True).stdout
        for more in (PART, [], ["-m", "real"], ["-m", "cuda_stub"])
    ]
    line = "3 tests of the whole ladder were left out; ./scripts/test --all runs them"
    assert line in said[0].splitlines() and "1 passed" in said[0]
    assert "whole ladder" not in said[1] and "4 passed" in said[1]
    real = "1 tests on published weights were left out; ./scripts/test --real runs them"
    assert all(real in said[i].splitlines() for i in (0, 1, 3)) and real not in said[2] and "1 passed" in said[2]
    stub = "1 tests on stubs of CUDA were left out; ./scripts/test --cuda-stub runs them"
    assert all(stub in said[i].splitlines() for i in (0, 1, 2)) and stub not in said[3] and "1 passed" in said[3]


def test_ci_runs_the_whole_ladder() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "./scripts/test --all"
