"""The example of a guided search: it finds a solution, the same in both ways, and says what it computed."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from session_checkpoints import session_bundle

SCRIPT = Path(__file__).parent.parent / "examples" / "guided_decoding.py"


@pytest.mark.parametrize("head", ["tagged", pytest.param("classifier", marks=pytest.mark.ladder)])
def test_a_search_computes_less_with_sessions(
    made_once: Callable[[str, Callable[[Path], None]], Path], head: str
) -> None:
    def make(folder: Path) -> None:
        session_bundle(folder, head)

    command = [sys.executable, str(SCRIPT), str(made_once(f"session-{head}-llama", make) / "b"), "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    steps = int(re.findall(r"of (\d+) steps with 4 candidates each", done.stdout)[0])
    assert len(lines) == steps + 5 and lines[0].startswith("What is 17 + 25")
    found = [tuple(map(int, own)) for own in re.findall(r"(\d+) tokens computed in (\d+) passes", done.stdout)]
    (sessions, few), (whole, many) = found
    assert (few, many) == (steps, 4 * steps)
    assert 3 * sessions < whole
